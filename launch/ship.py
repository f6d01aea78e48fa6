"""The code that a launch takes along: what git tracks, as it is on disk now.

Commits and uncommitted changes of tracked files go; `.venv`, `runs` and files
that git does not know stay. The archive is named by its content, so a dry run
prints what a real one does.
"""

import pathlib
import subprocess

from launch import shell

ROOT = pathlib.Path(__file__).resolve().parents[1]
_CACHE = pathlib.Path('~/.cache/grpo_jax/code')


def archive(sh: shell.Shell) -> pathlib.Path:
  """Writes code-HASH.tar.gz and returns its path."""
  tree = _tree()
  path = _folder(sh) / f'code-{tree[:12]}.tar.gz'
  sh.run(_export(tree, path, 'tar.gz'))
  return path


def folder(sh: shell.Shell) -> pathlib.Path:
  """Writes the folder code-HASH and returns its path."""
  tree = _tree()
  path = _folder(sh) / f'code-{tree[:12]}'
  tar = path.with_name(path.name + '.tar')
  sh.run(_export(tree, tar, 'tar'))
  sh.run(['mkdir', '-p', str(path)])
  sh.run(['tar', f'--directory={path}', '--extract', f'--file={tar}'])
  return path


def _folder(sh):
  path = _CACHE.expanduser()
  sh.run(['mkdir', '-p', str(path)])
  return path


def _export(tree, path, form):
  return [
    'git', '-C', str(ROOT), 'archive', f'--format={form}', f'--output={path}',
    tree,
  ]  # fmt: skip


def _tree():
  """The hash of what is shipped: the same for the same content."""
  # A commit that no branch knows; empty when nothing is changed.
  commit = _git('stash', 'create') or 'HEAD'
  unknown = _git('ls-files', '--others', '--exclude-standard').splitlines()
  if unknown:
    names = ', '.join(unknown[:5]) + (', ...' if len(unknown) > 5 else '')
    shell.say(
      f'not shipped, as git does not know them: {names}; `git add` what the '
      'job needs'
    )
  return _git('rev-parse', f'{commit}^{{tree}}')


def _git(*arguments):
  try:
    done = subprocess.run(
      ['git', '-C', str(ROOT), *arguments],
      capture_output=True,
      text=True,
      check=True,
    )
  except FileNotFoundError:
    raise shell.Failed('git is not installed or not on PATH', 'setup') from None
  except subprocess.CalledProcessError as error:
    said = error.stderr.strip().splitlines()[-1:] or ['no reason given']
    raise shell.Failed(
      f'{ROOT} is shipped by git, which failed: {said[0]}; work in a clone '
      'without unresolved conflicts',
      'setup',
    ) from None
  return done.stdout.strip()
