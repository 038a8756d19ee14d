/**
 * The real VLFS, in a strata-fs that dies by SIGKILL at a chosen step of a relayer, a freeze, a revert, a reset or an exchange. STRATA_TEST_DYING names a file with the number
 * of that step; it is removed when the process dies. Steps are what the VLFS announces before it changes something on disk, what it
 * does between requests, and the calls in which the loop learns what is to be expired.
 */
import { readFileSync, rmSync } from 'node:fs';
import type { FreezeWork, RelayerWork } from '../../vlfs/contract.ts';
import { openVlfs as openReal, prepareVlfs, type Vlfs, type VlfsOptions } from '../../vlfs/index.ts';

export { prepareVlfs };

const file = process.env['STRATA_TEST_DYING'] ?? '';

function chosenStep(): number {
  try {
    return Number(readFileSync(file, 'utf8'));
  } catch {
    return -1;
  }
}

export function openVlfs(spec: Parameters<typeof openReal>[0], options: VlfsOptions): Vlfs {
  let left = -1;
  let inside = false;
  const step = (): void => {
    if (left < 0 || --left > 0) return;
    rmSync(file);
    process.kill(process.pid, 'SIGKILL');
    for (;;);
  };
  const vlfs = openReal(spec, { ...options, onStep: () => inside && step() });
  /** What is announced meanwhile is a step of the change. */
  const within = <T>(work: () => T): T => {
    inside = true;
    try {
      step();
      return work();
    } finally {
      inside = false;
    }
  };
  const begin = (): void => {
    left = chosenStep();
  };
  return {
    ...vlfs,
    beginRevert(paths) {
      begin();
      const work = vlfs.beginRevert(paths);
      return { step: () => within(() => work.step(Number.POSITIVE_INFINITY)) };
    },
    beginReset(keep) {
      begin();
      const work = vlfs.beginReset(keep);
      return { step: () => within(() => work.step(Number.POSITIVE_INFINITY)) };
    },
    beginExchange(stack, fresh) {
      begin();
      const work = vlfs.beginExchange(stack, fresh);
      return { step: () => within(() => work.step(Number.POSITIVE_INFINITY)) };
    },
    beginRelayer(stack, files) {
      begin();
      const work = vlfs.beginRelayer(stack, files);
      return {
        ...work,
        // As few steps as can be, each time.
        step: () => within(() => work.step(0)),
        names: () => within(() => work.names()),
        commit: () => within(() => work.commit()),
      } satisfies RelayerWork;
    },
    beginFreeze(stack, dir) {
      begin();
      const work = vlfs.beginFreeze(stack, dir);
      return {
        ...work,
        step: () => within(() => work.step(0)),
        commit: (held) => within(() => work.commit(held)),
      } satisfies FreezeWork;
    },
    takeStaleNames: () => within(() => vlfs.takeStaleNames()),
    takeListed: (but) => within(() => vlfs.takeListed(but)),
  };
}
