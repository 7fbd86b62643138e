#!/usr/bin/env python
"""Pretrain the tiny model from scratch on the synthetic corpus of tool-using dialogues."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "200")  # a kernel for every new shape
sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).parents[1]
EXAMPLE = """examples:
  python scripts/pretrain_tiny.py --tokens 54e6 --workers 1     # train, one process of one thread
  python scripts/pretrain_tiny.py --tokens 54e6 --workers 1 --resume   # from the last checkpoint
  python scripts/pretrain_tiny.py --eval                       # probes on held-out APIs
  python scripts/pretrain_tiny.py --export                     # write the package's model files
"""


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--run", default=str(ROOT / "build/tiny"), help="folder of the run")
    p.add_argument("--minutes", type=float, default=60, help="wall-clock budget of training")
    p.add_argument("--tokens", type=float, help="budget in tokens instead (exactly repeatable)")
    p.add_argument("--workers", type=int, default=2, help="processes that share each step")
    p.add_argument("--threads", type=int, default=1, help="threads of each process")
    p.add_argument("--accumulate", type=int, default=1, help="packed batches a worker and step")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--muon-lr", type=float, default=0.006)
    p.add_argument("--adam-lr", type=float, default=0.003)
    p.add_argument("--decay-from", type=float, default=0.22, help="where the linear decay begins")
    p.add_argument("--mixture", default="", help="family weights (JSON) instead of stages")
    p.add_argument("--pack", type=int, default=2048, help="positions of one packed batch")
    p.add_argument("--no-induction", action="store_true", help="default initialisation instead")
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--eval-minutes", type=float, default=0.0, help="quick evaluation this often")
    p.add_argument("--norm-factor", type=float, default=4.0, help="rate of norms in AdamW's")
    p.add_argument("--shape", default="", help='changes of the shape (JSON): {"dim": 192}')
    p.add_argument("--start", default="", help="model folder to go on from, in the last stage")
    p.add_argument("--resume", action="store_true", help="continue the run in --run")
    p.add_argument("--eval", action="store_true", help="evaluate the run on held-out APIs")
    p.add_argument("--quick", action="store_true", help="few probes (a curve's point)")
    p.add_argument("--probes", type=int, default=320, help="probes of each kind in --eval")
    p.add_argument("--model", help="evaluate this exported folder, not the run's checkpoint")
    p.add_argument("--export", action="store_true", help="write src/understudy/models/tiny")
    p.add_argument("--mean-with", default="", help="export the mean with the weights of this run")
    p.add_argument("--new-tokenizer", action="store_true", help="train it anew, not the package's")
    p.add_argument("--raw", action="store_true", help="last weights instead of their average")
    return p.parse_args()


MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8000000000"


def main() -> int:
    a = arguments()
    if not os.environ.get("GLIBC_TUNABLES"):  # read at program start only; a tenth faster
        os.execve(
            sys.executable, [sys.executable, *sys.argv], os.environ | {"GLIBC_TUNABLES": MALLOC}
        )
    run = Path(a.run)
    if a.export:
        from tiny_pretrain.export import export

        other = Path(a.mean_with) if a.mean_with else None
        export(run, ROOT / "src/understudy/models/tiny", raw=a.raw, other=other)
        return 0
    if a.eval:
        from tiny_pretrain.evaluate import evaluate_run

        evaluate_run(
            run,
            model=Path(a.model) if a.model else None,
            docs=None if a.quick else ROOT / "docs/tiny",
            count=40 if a.quick else a.probes,
            threads=a.threads,
        )
        return 0
    from tiny_pretrain.data import DataOptions
    from tiny_pretrain.loop import Options, train
    from tiny_pretrain.net import Shape
    from tiny_pretrain.prepare import prepare, vocabulary
    from tiny_pretrain.recipe import chunks
    from tiny_pretrain.report import keep_earlier

    if a.resume and not (run / "state.json").exists():
        print(f"nothing to resume in {run}: run without --resume", file=sys.stderr)
        return 2
    if not a.resume:
        prepare(run, a.seed, keep=not a.new_tokenizer)
    if a.start and not a.resume:
        keep_earlier(run, ROOT / "docs/tiny")
    data = DataOptions(
        mixture=json.loads(a.mixture) if a.mixture else {},
        tokens=a.pack,
        chunks=chunks(a.minutes, a.tokens, a.workers),
        begun=bool(a.start),
    )
    shape = Shape(**{"vocab": vocabulary(run), **json.loads(a.shape or "{}")})
    options = Options(
        folder=a.run,
        shape=shape,
        seed=a.seed,
        minutes=None if a.tokens else a.minutes,
        tokens=a.tokens,
        workers=a.workers,
        threads=a.threads,
        accumulate=a.accumulate,
        muon_lr=a.muon_lr,
        adam_lr=a.adam_lr,
        decay_from=a.decay_from,
        norm_factor=a.norm_factor,
        start=a.start,
        induction=not a.no_induction,
        compile=not a.no_compile,
        eval_minutes=a.eval_minutes,
        data=data,
    )
    train(options, a.resume)
    return 0


if __name__ == "__main__":
    sys.exit(main())
