Traceback (most recent call last):
  File "/tmp/dev/srv-metrics/server.py", line 24, in <module>
    if args[0]=="py":
       ~~~~^^^
IndexError: list index out of range
