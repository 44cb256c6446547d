"""Several processes of one router on one port: `supervisor` starts them, `worker` is one, `channel` is what they say."""
