"""What runs inside the sandbox: started as programs, never imported by jobs.

`supervise` starts and ends everything, `confine` takes a process's rights
away (with `landlock` and `syscalls`), `untrusted` runs the program, `checker`
runs a trusted test against it, `values` carries plain data between the two.
The modules import nothing but each other and the built-in parts of Python, by
bare names, so that a sandbox is up in milliseconds.
"""
