"""Commands for folders of models that no study file names. A small study is written for them, and run as any other."""
