"""The graph, declared use case by use case: `graph/<scenario>/<use case>.py` beside `protos/quanyu/<scenario>/v1/<use case>.proto`."""
