"""Nothing crosses between host and device in a step unless asked for by name.

On an accelerator each such crossing stops the host, or the device.
"""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from grpo_jax import metrics as metrics_lib
from grpo_jax.loop import Loop
from grpo_jax.outcome import Outcome
from grpo_jax.structs import TrainState

METRICS = ('loss', 'grad_norm', 'tokens')
add_one = jax.jit(lambda x: x + 1)


def run(workdir, *, prepare=lambda _: None, also=dict, evaluation=None):
  """A loop of two steps that count, with more to do in them."""
  cfg = tiny.get_config()
  cfg.steps, cfg.eval.every = 2, int(evaluation is not None)
  cfg.checkpoint.every = 1 if evaluation else 10

  def init(params):
    step = jnp.zeros((), jnp.int32)
    return TrainState(step=step, params=params, opt_state=())

  params = {'w': jnp.zeros(3)}
  metrics = {name: jnp.float32(7) for name in METRICS}

  def step(state, index, inputs, timers):
    del index, inputs, timers
    return Outcome(
      state=state.replace(step=add_one(state.step)),
      updates={'': [metrics]},
      tokens=None,
      values=also(),
    )

  loop = Loop(
    cfg,
    workdir,
    types.SimpleNamespace(params=lambda: params, write_model=lambda _: None),
    types.SimpleNamespace(abstract=jax.eval_shape(init, params), init=init),
    job='test',
    shown={},
    evaluation=evaluation,
  )
  loop.run(prepare=prepare, step=step, publish=lambda params: params)
  return [json.loads(x) for x in (workdir / 'metrics.jsonl').open()]


def test_what_fails_between_steps_loses_none(tmp_path):
  """Ten steps are asked for between checkpoints; the next has no inputs."""

  def prepare(index):
    if index:
      raise ValueError('a prompt is too long')

  with pytest.raises(ValueError, match='a prompt is too long'):
    run(tmp_path, prepare=prepare)
  rows = metrics_lib.read_rows(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [1]
  assert (tmp_path / 'checkpoints' / '1').is_dir()


def test_an_evaluation_that_fails_loses_no_step(tmp_path):
  """The one of step 2; that of step 1 is known when going on."""
  results = [dict(x=0.5), dict(x=0.25), None]

  def evaluate(params, **_):
    del params
    if results[0] is None:
      raise ValueError('no judge answers')
    return results.pop(0)

  evaluation = types.SimpleNamespace(run=evaluate, optional=(), measure='x')
  with pytest.raises(ValueError, match='no judge answers'):
    run(tmp_path, evaluation=evaluation)
  assert (tmp_path / 'checkpoints' / '2').is_dir()
  results[0] = dict(x=0.75)
  rows = run(tmp_path, evaluation=evaluation)
  found = [(row['step'], row['eval/x']) for row in rows if 'eval/x' in row]
  assert found == [(0, 0.5), (1, 0.25), (2, 0.75)]


def by_mistake(*_):
  return {'found': add_one(np.ones(()))}


def by_name(*_):
  return {'found': add_one(jax.device_put(np.ones(())))}


def test_a_step_may_cross_by_name(tmp_path):
  rows = run(tmp_path, prepare=by_name, also=by_name)
  assert [row['step'] for row in rows] == [1, 2]
  assert all(row['found'] == 2 and row['loss'] == 7 for row in rows)


@pytest.mark.parametrize('where', ['prepare', 'also'])
def test_a_crossing_by_mistake_in_a_step_is_an_error(tmp_path, where):
  with pytest.raises(jax.errors.JaxRuntimeError, match='host-to-device'):
    run(tmp_path, **{where: by_mistake})


def test_reading_an_array_by_mistake_in_a_step_is_an_error(
  tmp_path, monkeypatch
):
  # CPU arrays are read in place, which JAX's own guard lets pass.
  tiny.refuse_implicit_reads(monkeypatch.setattr)
  number = jnp.ones(()) + 1
  with pytest.raises(RuntimeError, match='read by mistake'):
    run(tmp_path, also=lambda: {'found': float(number)})
  assert float(number) == 2
