"""Commands that ask the worker plane one thing and print its answer: nothing of a plan is carried out, and no job of a
study is touched. What is asked is written down, mostly as `request.json` in a folder of its own."""
