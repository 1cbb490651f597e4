"""`tag2mask ui`: a local page that shows what a model says about a picture."""
