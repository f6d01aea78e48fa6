"""Headless Chromium for tests of pages: the devtools protocol over a pipe."""

import base64
import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import tempfile
import time

import pytest

NAMES = (
  'chromium', 'chromium-headless-shell', 'chromium-browser', 'google-chrome',
)  # fmt: skip
TIMEOUT = 60.0  # seconds, of any one answer


def found() -> str | None:
  """The browser's path; $CHROMIUM comes first."""
  given = os.environ.get('CHROMIUM')
  return given or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
  """A tab. `errors` has what the console complained about."""

  def __init__(self, send, receive):
    self._send, self._receive, self._count = send, receive, 0
    self.errors = []
    self._session = None
    target = self.call('Target.createTarget', url='about:blank')['targetId']
    self._session = self.call(
      'Target.attachToTarget', targetId=target, flatten=True
    )['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.call(f'{domain}.enable')
    self.requests = []

  def call(self, method: str, **params):
    """A command's result."""
    self._count += 1
    message = {'id': self._count, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    self._send(message)
    while True:
      got = self._receive()
      if got.get('id') == self._count:
        assert 'error' not in got, (method, got)
        return got['result']
      self._note(got)

  def open(self, url: str, *, width=1280, height=900, mobile=False, dark=False):
    """Loads a page."""
    self.call(
      'Emulation.setDeviceMetricsOverride', width=width, height=height,
      deviceScaleFactor=1, mobile=mobile,
    )  # fmt: skip
    scheme = 'dark' if dark else 'light'
    self.call(
      'Emulation.setEmulatedMedia',
      features=[{'name': 'prefers-color-scheme', 'value': scheme}],
    )
    self.call('Page.navigate', url=url)
    self.wait(
      f'document.readyState == "complete" && location.href != "about:blank"'
      f' && {json.dumps(url)}.startsWith(location.href.split("#")[0])'
    )

  def evaluate(self, script: str):
    """The value of a JavaScript expression."""
    got = self.call('Runtime.evaluate', expression=script, returnByValue=True)
    assert 'exceptionDetails' not in got, (script, got['exceptionDetails'])
    return got['result'].get('value')

  def wait(self, script: str):
    """Until it is true."""
    end = time.monotonic() + TIMEOUT
    while not self.evaluate(script):
      assert time.monotonic() < end, f'still false: {script}'
      time.sleep(0.05)

  def screenshot(self, path: pathlib.Path, *, whole: bool = False):
    """A PNG of what is in view, or of the whole page."""
    got = self.call(
      'Page.captureScreenshot', format='png', captureBeyondViewport=whole
    )
    pathlib.Path(path).write_bytes(base64.b64decode(got['data']))

  def _note(self, event):
    method, params = event.get('method'), event.get('params', {})
    if method == 'Runtime.exceptionThrown':
      self.errors.append(params['exceptionDetails'])
    elif method == 'Runtime.consoleAPICalled' and params['type'] in (
      'error', 'warning', 'assert',
    ):  # fmt: skip
      self.errors.append(params['args'])
    elif method == 'Log.entryAdded' and params['entry']['level'] == 'error':
      self.errors.append(params['entry'])
    elif method == 'Network.requestWillBeSent':
      self.requests.append(params['request']['url'])


@contextlib.contextmanager
def page():
  """A tab of a browser of its own; skips the test where there is none."""
  browser = found()
  if browser is None:
    pytest.skip(
      f'no {NAMES[0]}: apt-get install chromium, or name one in $CHROMIUM'
    )
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    (from_us, to_it), (from_it, to_us) = os.pipe(), os.pipe()
    command = [
      browser, '--headless=new', '--no-sandbox', '--disable-gpu',
      '--disable-dev-shm-usage', '--no-first-run', '--hide-scrollbars',
      '--disable-background-networking', f'--user-data-dir={folder}',
      '--remote-debugging-pipe', 'about:blank',
    ]  # fmt: skip
    # It reads commands from 3 and answers on 4; these may be in use here.
    ends = [fcntl.fcntl(f, fcntl.F_DUPFD_CLOEXEC, 10) for f in (from_us, to_us)]
    pid = os.posix_spawn(
      browser,
      command,
      os.environ,
      file_actions=[
        (os.POSIX_SPAWN_DUP2, ends[0], 3),
        (os.POSIX_SPAWN_DUP2, ends[1], 4),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
      ],
    )
    for file in (from_us, to_us, *ends):
      os.close(file)
    try:
      yield Page(_sender(to_it), _receiver(from_it))
    finally:
      os.kill(pid, signal.SIGKILL)
      os.waitpid(pid, 0)
      os.close(to_it)
      os.close(from_it)


def _sender(file):
  def send(message):
    left = json.dumps(message).encode() + b'\0'
    while left:
      left = left[os.write(file, left) :]

  return send


def _receiver(file):
  buffered = bytearray()

  def receive():
    while b'\0' not in buffered:
      assert select.select([file], [], [], TIMEOUT)[0], 'no answer'
      got = os.read(file, 1 << 20)
      assert got, 'the browser has ended'
      buffered.extend(got)
    line, _, rest = bytes(buffered).partition(b'\0')
    buffered[:] = rest
    return json.loads(line)

  return receive
