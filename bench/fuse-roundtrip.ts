/**
 * Round trips through a FUSE mount of strata-fs, for each time that a serving thread looks for the next request before it sleeps
 * (--spin-us). `node bench/fuse-roundtrip.ts [calls]`; as root, on a machine that does little else.
 */
import { closeSync, openSync, readFileSync, readSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { dataPlanePid } from '../src/fuse/index.ts';
import { withDataPlane } from '../src/fuse/test-support/with-data-plane.ts';

const CALLS = Number(process.argv[2] ?? 20_000);
const SPINS_US = [0, 20, 50, 100, 200];

interface Figures {
  lookupUs: number;
  openReadCloseUs: number;
  pacedLookupUs: number;
  serverCpu: string;
}

/** Processor time of a process so far, in milliseconds (ticks of 10 ms). */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** The median of five runs of `calls` calls, in microseconds a call. */
function timed(calls: number, call: (i: number) => void): number {
  const runs: number[] = [];
  for (let run = 0; run < 5; run++) {
    const began = performance.now();
    for (let i = 0; i < calls; i++) call(run * calls + i);
    runs.push(((performance.now() - began) / calls) * 1000);
  }
  return runs.sort((a, b) => a - b)[2]!;
}

async function measure(spinUs: number): Promise<Figures> {
  let figures: Figures | null = null;
  await withDataPlane(
    async (t) => {
      const source = t.makeDir('source');
      writeFileSync(join(source, 'f'), Buffer.alloc(4096));
      const mnt = await t.mount('a', source);
      const pid = dataPlanePid(t.root)!;
      const buffer = Buffer.alloc(4096);
      const lookup = (i: number): unknown => statSync(join(mnt, `absent-${i}`), { throwIfNoEntry: false });
      timed(CALLS / 10, (i) => lookup(-i - 1));
      const cpuBefore = cpuMs(pid);
      const began = performance.now();
      const lookupUs = timed(CALLS, lookup);
      const share = (cpuMs(pid) - cpuBefore) / (performance.now() - began);
      const openReadCloseUs = timed(CALLS / 2, () => {
        const fd = openSync(join(mnt, 'f'), 'r');
        readSync(fd, buffer, 0, 4096, 0);
        closeSync(fd);
      });
      // A caller that works between two calls longer than the server looks for the next one.
      const pacedLookupUs =
        timed(CALLS / 20, (i) => {
          const until = performance.now() + 0.5;
          while (performance.now() < until);
          lookup(i + 1e9);
        }) - 500;
      figures = { lookupUs, openReadCloseUs, pacedLookupUs, serverCpu: `${Math.round(share * 100)} %` };
    },
    { spinUs },
  );
  return figures!;
}

const rows: Record<string, Record<string, string>> = {};
for (const spinUs of SPINS_US) {
  const f = await measure(spinUs);
  rows[`${spinUs} us`] = {
    'uncached lookup, us': f.lookupUs.toFixed(1),
    'open+read+close, us': f.openReadCloseUs.toFixed(1),
    'lookup after 0.5 ms of work, us': f.pacedLookupUs.toFixed(1),
    'server CPU in lookups': f.serverCpu,
  };
}
console.log(
  `${CALLS} calls, ${availableParallelism()} processors; rows: time the server looks before it sleeps`,
);
console.table(rows);
