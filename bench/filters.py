# SPDX-License-Identifier: MIT
"""What a filter that does nothing costs, and how well limits hold their rate: null source, one queue, depth 32."""
from lib import count

RATES = (100, 1000, 10000, 100000)
SECONDS = 3  # of a run with a limit: the burst at its beginning is 10 ms' worth
IDLE = {
    "none": "",
    "limit": ",iops=1000000000",
    "limits": ",iops=1000000000,bps=1000T",
    "error": ",error=0%",
    "overlay": ",temporary=on",
}


def idle_filters(bench):
    """4 KiB random reads with a filter that changes nothing, and without."""
    backends = {name: bench.serve(f"blk,null:1G{keys}") for name, keys in IDLE.items()}
    try:
        return bench.row("null, polling, with a filter that does nothing",
                         {name: (backend, ["--depth", "32"]) for name, backend in backends.items()})
    finally:
        for backend in backends.values():
            backend.stop()


def measured(bench, backend, *options):
    """The median rate of some runs. The front-end sleeps: one that polls may be kept from asking for its share."""
    runs = sorted(bench.load(backend, "--depth", "32", "--interrupt", *options, seconds=SECONDS)["iops"]
                  for _ in range(min(bench.o.runs, 3)))
    return runs[len(runs) // 2]


def held_rates(bench):
    rows = []
    for rate in RATES:
        bench.say(f"limit of {rate} IOPS")
        backend = bench.serve(f"blk,null:1G,iops={rate}")
        try:
            rows.append({"key": "iops", "limit": rate, "iops": measured(bench, backend)})
        finally:
            backend.stop()
    bench.say("limit of 100 MiB/s")
    backend = bench.serve("blk,null:1G,bps=100M")
    try:
        rows.append({"key": "bps", "limit": 1600, "iops": measured(bench, backend, "--bs", "64K")})
    finally:
        backend.stop()
    return rows


def measure(bench):
    return {"idle": idle_filters(bench), "rates": held_rates(bench)}


def show(_, out):
    idle = out["idle"]
    none = idle["none"]
    print("null source, 4 KiB random reads, depth 32, polling; a filter that does nothing:")
    for name, row in idle.items():
        print(f"  {name:10}{count(row['iops']):>9} IOPS  back-end CPU {row['backend_cpu_us']:.3f} us an I/O"
              + ("" if row is none else f"  {row['iops'] / none['iops']:.2f} of none"))
    print("limits:")
    for row in out["rates"]:
        off = 100 * (row["iops"] / row["limit"] - 1)
        name = f"{row['limit']} IOPS" if row["key"] == "iops" else f"100 MiB/s ({row['limit']} IOPS of 64 KiB)"
        print(f"  {name:34}{row['iops']:>10.1f}  {off:+.2f} %  {'met' if abs(off) <= 2 else 'MISSED'}: within 2 %")
