"""A report on runs as one HTML file, to look at and to pass on.

  python -m grpo_jax.report --workdir runs/a --workdir runs/b --out report.html
  python -m grpo_jax.report --workdir runs/sweep --live

The file needs no network. `--live` serves the same page on this machine, and
it follows runs that are under way.
"""

import argparse
import base64
from collections.abc import Sequence
import hashlib
import http.server
import json
import math
import pathlib
import signal
import string
import sys
import threading
import time
from typing import Any

from grpo_jax import errors, files, metrics, report_data

_PAGE = pathlib.Path(__file__).parent / 'report_page'
_STYLES = ('uPlot.min.css', 'page.css')
_SCRIPTS = ('uPlot.iife.min.js', 'charts.js', 'completions.js', 'page.js')
_FILES = (files.CONFIG, metrics.METRICS, metrics.SAMPLES, files.WIN_RATE)


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  args = _flags(argv)
  group_over = [f for f in args.group_over.split(',') if f]
  try:
    if args.live:
      return serve(args.workdir, args.port, args.refresh, group_over=group_over)
    data = report_data.read(args.workdir, group_over=group_over)
    out = pathlib.Path(args.out).expanduser()
    if out.is_dir():
      raise ValueError(f'--out {out} is a folder; name a file in it')
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write(out, page(_dated(data)))
  except (ValueError, OSError) as error:
    errors.tell(error)
    return 2
  print(f'{out}: {out.stat().st_size / 1e6:.1f} MB, open it in a browser')
  return 0


def page(data: dict[str, Any]) -> bytes:
  """The HTML file of what `report_data.read` returns."""
  script = '\n'.join(map(_read, _SCRIPTS))
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  filled = string.Template(_read('page.html')).substitute(
    # Only this script may run, whatever a model has written.
    script_hash=f'sha256-{digest}',
    style='\n'.join(map(_read, _STYLES)),
    script=script,
    data=as_json(data, in_html=True),
  )
  return filled.encode('utf-8', 'backslashreplace')


def as_json(data: dict[str, Any], *, in_html: bool = False) -> str:
  r"""JSON; in HTML, '<' is \u003c, so that no text can end the element."""
  dumped = json.dumps(
    data, ensure_ascii=False, allow_nan=False, separators=(',', ':')
  )
  return dumped.replace('<', '\\u003c') if in_html else dumped


def serve(
  workdirs: Sequence[str], port: int, refresh: float, *, group_over: list[str]
) -> int:
  """Serves the page of runs under way until Ctrl-C or SIGTERM.

  Args:
    workdirs: see `report_data.read`.
    port: on this machine; 0 takes a free one.
    refresh: seconds between the page's questions for what is new.
    group_over: see `report_data.read`.

  Raises:
    FileNotFoundError, ValueError: of the first look, no port, or no seconds.
    OSError: the port is taken.
  """
  if not 0 <= port <= 65535:
    raise ValueError(f'port {port}: choose a --port of 0 to 65535')
  if not 0 < refresh < math.inf:
    raise ValueError(f'refresh {refresh:g}: choose a --refresh above 0')
  watched = _Watched(workdirs, refresh, group_over)
  watched.data()
  try:
    server = http.server.ThreadingHTTPServer(
      ('127.0.0.1', port), type('Handler', (_Handler,), {'watched': watched})
    )
  except OSError as error:
    raise OSError(
      error.errno, f'port {port}: {error.strerror}; choose another --port'
    ) from None
  # Also where a shell has started it in the background, deaf to Ctrl-C.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
  with server:
    print(
      f'http://localhost:{server.server_port} follows '
      f'{", ".join(workdirs)}; Ctrl-C ends it',
      flush=True,
    )
    try:
      server.serve_forever()
    except KeyboardInterrupt:
      print('\nstopped')
  return 0


class _Watched:
  """The data of runs, read again when their files have changed."""

  def __init__(self, workdirs, refresh, group_over):
    self._workdirs, self._group_over = workdirs, group_over
    self._refresh = refresh
    self._lock = threading.Lock()
    self._signature = self._data = None

  def data(self) -> dict[str, Any]:
    with self._lock:
      signature = self._look()
      if signature != self._signature:
        data = report_data.read(
          self._workdirs, group_over=self._group_over, waiting=True
        )
        live = {'refresh': self._refresh, 'version': time.time_ns()}
        self._data = _dated(data) | {'live': live}
        self._signature = signature
      return self._data

  def _look(self):
    found = []
    for path in report_data.find(self._workdirs, waiting=True):
      named = (path / name for name in _FILES)
      for file in (*named, *path.glob(files.EVALUATIONS)):
        if file.exists():
          stat = file.stat()
          found.append((str(file), stat.st_mtime_ns, stat.st_size))
    return found


class _Handler(http.server.BaseHTTPRequestHandler):
  """/ is the page, /data.json?seen=VERSION what it asks for again."""

  watched: _Watched

  def do_GET(self):
    path, _, query = self.path.partition('?')
    try:
      if path == '/':
        self._send(200, 'text/html; charset=utf-8', page(self.watched.data()))
      elif path == '/data.json':
        data = self.watched.data()
        if query == f'seen={data["live"]["version"]}':
          self._send(204, 'application/json', b'')
        else:
          dumped = as_json(data).encode('utf-8', 'backslashreplace')
          self._send(200, 'application/json', dumped)
      else:
        self._send(404, 'text/plain', b'')
    except (ConnectionError, TimeoutError):
      pass  # the reader has left
    except (ValueError, OSError) as error:
      # A file was damaged or removed meanwhile: the page says so and goes on.
      self._send(503, 'text/plain; charset=utf-8', errors.line(error).encode())

  def log_message(self, *_):
    """Keeps the terminal to what concerns a person."""

  def _send(self, status, kind, body):
    self.send_response(status)
    self.send_header('Content-Type', kind)
    self.send_header('Content-Length', str(len(body)))
    self.send_header('Cache-Control', 'no-store')
    self.end_headers()
    self.wfile.write(body)


def _dated(data):
  return data | {'made': time.strftime('%Y-%m-%d %H:%M')}


def _read(name):
  return (_PAGE / name).read_text(encoding='utf-8')


def _flags(argv):
  parser = argparse.ArgumentParser(
    prog='python -m grpo_jax.report', description=__doc__.splitlines()[0]
  )
  parser.add_argument(
    '--workdir', action='append', required=True,
    help='Folder of a run, a sweep or an evaluation; several may be given.',
  )  # fmt: skip
  parser.add_argument('--out', default='report.html', help='The file to write.')
  parser.add_argument(
    '--group_over', default='seed',
    help='Fields in which the runs of a group may differ, as in '
    'seed,init_from.',
  )  # fmt: skip
  parser.add_argument(
    '--live', action='store_true',
    help='Serve the page on this machine and follow the runs.',
  )  # fmt: skip
  parser.add_argument('--port', type=int, default=8000, help='Of --live.')
  parser.add_argument(
    '--refresh', type=float, default=5.0,
    help='Seconds between looks, of --live.',
  )  # fmt: skip
  return parser.parse_args(argv)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
