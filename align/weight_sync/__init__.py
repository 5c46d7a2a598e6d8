"""Transfers the learner's weights to the engines. `Workers.publish` does it after every step.

After an update the learner flattens the whole model into one buffer (`flattening.Flattener`), with adapters merged and under the names
of its Hugging Face checkpoint. Each engine receives the buffer in `RunningEngine.load(version, weights)`: the object itself in one
process, a read-only view of the object store under Ray. The engine checks names and shapes (`layout.Layout`) and copies from
`flattening.unflatten`.
"""
