"""How the learner's weights reach the engines.

After an update the learner packs the whole model, by the names of its Hugging Face checkpoint and with adapters merged, into one buffer
(`packing.Packer`). Each engine gets it as the `Weights` of `RunningEngine.load(version, weights)`: in one process the object itself, under
Ray a read-only view out of the object store. It checks names and shapes (`layout.Layout`) and copies from `packing.unpack(weights)`.
"""
