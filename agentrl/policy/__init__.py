"""Token ids in, token ids and log-probs out.

`base` is the protocol, `render` the only user of a tokenizer, `scripted` replays fixed replies and
`local` is the embedded engine (the only module here that imports torch).
"""
