"""What a result rests on beside its configuration: code, libraries, device.

`code` says which files count, by `syntax` trees; `machine` and `gpus` describe where it ran. Loads
no torch.
"""
