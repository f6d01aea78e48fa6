"""One GRPO update in float64 numpy: what the library's update must equal.

Whole texts, prompt and completion, one at a time: no trunk, no branches, no
padding, no masks, and none of the library's code. Parameters are one flat
vector. With a leading axis it is many models at once, which is how the gradient
is taken: central differences, entry by entry, of the loss itself.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Row:
  """A prompt with one completion of m tokens, and what is known of it."""

  prompt: list[int]
  completion: list[int]
  advantage: float = 0.0
  old: np.ndarray | None = None  # [m] logprobs of the policy that sampled
  ref: np.ndarray | None = None  # [m] logprobs of the reference


@dataclasses.dataclass(frozen=True)
class Settings:
  """Numbers of the objective and of AdamW."""

  vocab_size: int  # of the tokenizer: logits past it are padding
  temperature: float
  eps_low: float
  eps_high: float
  kl_coef: float
  learning_rate: float
  b1: float
  b2: float
  eps: float
  weight_decay: float
  clip_norm: float


def shapes(c) -> dict[str, tuple[int, ...]]:
  """Shape of every parameter; those of layers are stacked."""
  d, f, h = c.embed_dim, c.mlp_dim, c.head_dim
  n, k = c.num_heads, c.num_kv_heads
  layer = dict(
    attn_norm=(d,), q=(n, h, d), k=(k, h, d), v=(k, h, d), o=(d, n, h),
    mlp_norm=(d,), gate=(f, d), up=(f, d), down=(d, f),
  )  # fmt: skip
  if c.qkv_bias:
    layer |= dict(q_bias=(n, h), k_bias=(k, h), v_bias=(k, h))
  if c.qk_norm:
    layer |= dict(q_norm=(h,), k_norm=(h,))
  out = {f'layers/{k}': (c.num_layers, *v) for k, v in layer.items()}
  out |= {'embed': (c.vocab_size, d), 'final_norm': (d,)}
  return out if c.tied_head else out | {'head': (c.vocab_size, d)}


def unflatten(c, flat: np.ndarray) -> dict[str, np.ndarray]:
  """[... n] -> arrays [... *shape] by name."""
  found, start = {}, 0
  for name, shape in shapes(c).items():
    size = int(np.prod(shape))
    part = flat[..., start : start + size]
    found[name] = part.reshape(*flat.shape[:-1], *shape)
    start += size
  assert start == flat.shape[-1]
  return found


def logits(c, flat: np.ndarray, ids: list[int]) -> np.ndarray:
  """[... T V] of a text of T tokens."""
  w = unflatten(c, flat)
  axis = flat.ndim - 1
  x = w['embed'][..., ids, :]
  for i in range(c.num_layers):
    layer = {
      k.removeprefix('layers/'): np.take(v, i, axis)
      for k, v in w.items()
      if k.startswith('layers/')
    }
    x = x + _attention(c, layer, _norm(c, x, layer['attn_norm'][..., None, :]))
    x = x + _mlp(layer, _norm(c, x, layer['mlp_norm'][..., None, :]))
  x = _norm(c, x, w['final_norm'][..., None, :])
  head = w['embed' if c.tied_head else 'head']
  return np.einsum('...td,...vd->...tv', x, head)


def _norm(c, x, scale):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + c.norm_eps) * scale


def _attention(c, w, x):
  def project(name):
    y = np.einsum('...td,...nhd->...nth', x, w[name])
    if c.qkv_bias:
      y = y + w[f'{name}_bias'][..., :, None, :]
    if c.qk_norm and name != 'v':
      y = _norm(c, y, w[f'{name}_norm'][..., None, None, :])
    return y if name == 'v' else _rotate(c, y)

  q, k, v = project('q'), project('k'), project('v')
  # Query head n reads key and value head n // (N / K).
  k, v = (np.repeat(y, c.num_heads // c.num_kv_heads, -3) for y in (k, v))
  scores = np.einsum('...nth,...nsh->...nts', q, k) / np.sqrt(c.head_dim)
  past = np.tri(x.shape[-2], dtype=bool)
  shares = np.exp(_log_softmax(np.where(past, scores, -np.inf)))
  y = np.einsum('...nts,...nsh->...nth', shares, v)
  return np.einsum('...nth,...dnh->...td', y, w['o'])


def _rotate(c, x):
  """RoPE: the pair (i, i + H/2) at place t turns by t theta^(-2i/H)."""
  half = c.head_dim // 2
  speed = c.rope_theta ** (-np.arange(half) / half)
  turn = np.exp(1j * np.arange(x.shape[-2])[:, None] * speed)
  pairs = (x[..., :half] + 1j * x[..., half:]) * turn
  return np.concatenate([pairs.real, pairs.imag], -1)


def _mlp(w, x):
  gate = np.einsum('...td,...fd->...tf', x, w['gate'])
  up = np.einsum('...td,...fd->...tf', x, w['up'])
  y = gate / (1 + np.exp(-gate)) * up
  return np.einsum('...tf,...df->...td', y, w['down'])


def _log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def score(c, flat, row: Row, s: Settings) -> tuple[np.ndarray, np.ndarray]:
  """Logprob of each completion token, and the entropy where it was chosen."""
  text = row.prompt + row.completion
  scaled = logits(c, flat, text)[..., : s.vocab_size] / s.temperature
  # The logits at a token are those of the next one.
  chosen = _log_softmax(scaled[..., len(row.prompt) - 1 : -1, :])
  places = np.arange(len(row.completion))
  entropy = -np.sum(np.exp(chosen) * chosen, -1)
  return chosen[..., places, row.completion], entropy


def advantages(rewards: list[float], *, eps: float) -> list[float]:
  """(r - mean) / (std + eps) of one group, std with n - 1; NaN is missing."""
  known = [r for r in rewards if not np.isnan(r)]
  if len(set(known)) < 2:
    return [0.0] * len(rewards)
  mean, std = np.mean(known), np.std(known, ddof=1)
  return [0.0 if np.isnan(r) else (r - mean) / (std + eps) for r in rewards]


def tokens(c, flat, row: Row, s: Settings) -> dict[str, np.ndarray]:
  """Everything about each completion token, 'loss' first of all."""
  logprobs, entropy = score(c, flat, row, s)
  ratio = np.exp(logprobs - row.old)
  free = ratio * row.advantage
  held = np.clip(ratio, 1 - s.eps_low, 1 + s.eps_high) * row.advantage
  surrogate = np.minimum(free, held)
  kl = np.exp(row.ref - logprobs) - (row.ref - logprobs) - 1
  return {
    'loss': -surrogate + s.kl_coef * kl,
    'policy_loss': -surrogate,
    'kl': kl,
    'clip_share': held < free,
    'ratio': ratio,
    'logprob_gap': np.abs(logprobs - row.old),
    'entropy': entropy,
  }


def loss(c, flat, rows: list[Row], s: Settings) -> np.ndarray:
  """Mean over all tokens of all completions; one number for each model."""
  total = sum(tokens(c, flat, row, s)['loss'].sum(-1) for row in rows)
  return total / sum(len(row.completion) for row in rows)


def gradient(c, flat, rows, s, *, h=1e-5, at_once=512) -> np.ndarray:
  """(loss(w + h) - loss(w - h)) / 2h of every entry w of `flat`.

  For numbers of order 1 the error is h^2 / 6 of a third derivative, and 1e-16
  / h from rounding: both 1e-11, far below what float32 can show.
  """
  parts = []
  for start in range(0, flat.size, at_once):
    moves = np.zeros((min(at_once, flat.size - start), flat.size))
    moves[np.arange(len(moves)), start + np.arange(len(moves))] = h
    up, down = (loss(c, flat + sign * moves, rows, s) for sign in (1, -1))
    parts.append((up - down) / (2 * h))
  return np.concatenate(parts)


def adamw(c, flat, grad, moments, step: int, s: Settings):
  """Parameters and moments after update `step` = 1, 2, ... (1711.05101).

  The gradient is first scaled down to a norm of `clip_norm`; decay spares
  norms and biases.
  """
  norm = np.sqrt(np.sum(grad**2))
  grad = grad * min(1.0, s.clip_norm / norm)
  m = s.b1 * moments[0] + (1 - s.b1) * grad
  v = s.b2 * moments[1] + (1 - s.b2) * grad**2
  direction = (m / (1 - s.b1**step)) / (np.sqrt(v / (1 - s.b2**step)) + s.eps)
  decayed = np.concatenate([
    np.full(int(np.prod(shape)), not name.endswith(('norm', 'bias')))
    for name, shape in shapes(c).items()
  ])  # fmt: skip
  direction = direction + s.weight_decay * decayed * flat
  return flat - s.learning_rate * direction, (m, v)


def updates(c, flat, rows: list[Row], s: Settings, *, count: int):
  """`count` updates on the same rows, from parameters `flat`.

  Returns:
    Of each update: gradient, metrics, new parameters; and every token's ratio.
  """
  moments, made, ratios = (0.0, 0.0), [], []
  for step in range(1, count + 1):
    found = [tokens(c, flat, row, s) for row in rows]
    every = {k: np.concatenate([x[k] for x in found]) for k in found[0]}
    ratios.append(every['ratio'])
    grad = gradient(c, flat, rows, s)
    metrics = {k: v.mean() for k, v in every.items()}
    metrics |= {
      'logprob_gap_max': every['logprob_gap'].max(),
      'grad_norm': np.sqrt(np.sum(grad**2)),
      'nonfinite': 0.0,
      'tokens': every['ratio'].size,
    }
    flat, moments = adamw(c, flat, grad, moments, step, s)
    made.append((grad, metrics, flat))
  return made, ratios
