"""The door of `tunestudy synth`: `python -m tunestudy.data.synth.run` with a request on standard input.

The request is JSON: out, settings (a list, one per kind), count, shape, format, num_workers.
"""

import json
import sys
import time
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.streams import go_on_unheard, may_close
from tunestudy.config.synth import SynthSettings
from tunestudy.data.synth.write import write_set


def main() -> int:
    """Write the set and tell where it is and how fast it came; returns an exit code."""
    request = json.load(sys.stdin)
    kinds = [SynthSettings.model_validate(settings) for settings in request["settings"]]
    start = time.monotonic()
    try:
        written = write_set(
            Path(request["out"]),
            kinds,
            count=request["count"],
            shape=request["shape"],
            file_format=request["format"],
            num_workers=request["num_workers"],
        )
    except StudyError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return Exit.INTERRUPTED
    seconds = time.monotonic() - start
    print(f"{request['count']:,} records in {seconds:.1f} s ({request['count'] / seconds:.0f} images/s): {written}")
    return Exit.DONE


if __name__ == "__main__":
    may_close()
    go_on_unheard()
    sys.exit(main())
