"""Names in Google Cloud, checked against its patterns before any command."""

import re

# kind -> (pattern, the rule in words)
_NAMES = {
  'pod': (
    r'[a-z]([-a-z0-9]{0,57}[a-z0-9])?',
    'lower-case letters, digits and -, at most 59, a letter first, no - last',
  ),
  'project': (
    r'([a-z0-9][-a-z0-9.]*\.[a-z]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]',
    'a project ID: 6 to 30 lower-case letters, digits and -, a letter first',
  ),
  'zone': (r'[a-z]+-[a-z]+\d+-(ai\d+)?[a-z]', 'such as us-central2-b'),
  'location': (
    r'[a-z]+-[a-z]+\d+(-(ai\d+)?[a-z])?',
    'a region or a zone, such as us-central2',
  ),
  'accelerator_type': (
    r'(v\d+[a-z]*|tpu\d+x)-\d+(x\d+){0,2}',
    'such as v5p-128, v5litepod-16 or v6e-8',
  ),
  'runtime_version': (r'[a-z0-9][-a-z0-9.]{0,62}', 'such as v2-alpha-tpuv5'),
  'workload': (
    r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?',
    'lower-case letters, digits and -, at most 40, a letter first, no - last',
  ),
  'image': (
    r'[a-z0-9][\w./:@-]{0,254}',
    'such as us-docker.pkg.dev/PROJECT/REPOSITORY/grpo:1',
  ),
  'extras': (r'[a-z]+(-[a-z]+)*(,[a-z]+(-[a-z]+)*)*', 'such as tpu,sandbox'),
  'option': (r'--[a-z][-a-z]*(=[ -~]*)?', 'such as --network=NAME'),
  'worker': (r'\d{1,4}|all', 'a number or all'),
  'bucket': (
    r'(?!goog)(?!.*g[o0][o0]gle)(?!\d+(\.\d+){3}$)(?!.*[^.]{64})'
    r'[a-z0-9][-a-z0-9_.]{1,220}[a-z0-9]',
    "3 to 63 lower-case letters, digits, - _ and ., without 'google'",
  ),
}
_NAMES['cluster'] = _NAMES['workload']


def checked(kind: str, value: str, *, flag: str = '') -> str:
  """The name itself, or a ValueError that says what a name of this kind is."""
  pattern, rule = _NAMES[kind]
  if not value:
    raise ValueError(f'--{flag or kind} is needed: {rule}')
  if not re.fullmatch(pattern, value, re.ASCII):
    raise ValueError(f'--{flag or kind}={value!r} is not valid: {rule}')
  return value
