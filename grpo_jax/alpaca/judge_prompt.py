"""What a language model that judges is asked: AlpacaEval 2's question."""

# alpaca_eval_clf.txt of the package alpaca_eval (Apache-2.0), word for word.
_SYSTEM = (
  'You are a highly efficient assistant, who evaluates and selects the best '
  'large language model (LLMs) based on the quality of their responses to a '
  'given instruction. This process will be used to create a leaderboard '
  'reflecting the most accurate and human-preferred answers.'
)
_USER = '''I require a leaderboard for various large language models. I'll \
provide you with prompts given to these models and their corresponding \
outputs. Your task is to assess these responses, and select the model that \
produces the best output from a human perspective.

## Instruction

{
    "instruction": """{instruction}""",
}

## Model Outputs

Here are the unordered outputs from the models. Each output is associated \
with a specific model, identified by a unique model identifier.

{
    {
        "model_identifier": "m",
        "output": """{output_1}"""
    },
    {
        "model_identifier": "M",
        "output": """{output_2}"""
    }
}

## Task

Evaluate the models based on the quality and relevance of their outputs, and \
select the model that generated the best output. Answer by providing the model \
identifier of the best model. We will use your output as the name of the best \
model, so make sure your output only contains one of the following model \
identifiers and nothing else (no quotes, no spaces, no new lines, ...): m or M.

## Best Model Identifier'''


def messages(instruction: str, first: str, second: str) -> list[dict[str, str]]:
  """The conversation; 'm' is the answer shown first, 'M' the second."""
  parts = {'instruction': instruction, 'output_1': first, 'output_2': second}
  # In one pass: an answer may hold the name of another field.
  pieces, rest = [], _USER
  for name, value in parts.items():
    before, _, rest = rest.partition('{' + name + '}')
    pieces += [before, value]
  return [
    {'role': 'system', 'content': _SYSTEM},
    {'role': 'user', 'content': ''.join([*pieces, rest])},
  ]
