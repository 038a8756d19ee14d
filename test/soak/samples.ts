/** What the processes of Strata hold, sampled over time, and whether it grows. */
import { readdirSync, readFileSync } from 'node:fs';

export interface Sample {
  /** Seconds since the beginning. */
  at: number;
  /** By process: resident MiB, open descriptors, threads. */
  [what: string]: number;
}

export interface Memory {
  /** MiB resident, and of them in anonymous files (ledgers of mounts). */
  rss: number;
  shared: number;
  threads: number;
  mappings: number;
}

/** What a process holds now. */
export function memoryOf(pid: number): Memory {
  const text = readFileSync(`/proc/${pid}/status`, 'latin1');
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
  return {
    rss: field('VmRSS') / 1024,
    shared: field('RssShmem') / 1024,
    threads: field('Threads'),
    mappings: readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n').length - 1,
  };
}

/** Mounts of the kernel's table below a directory. */
export function mountsBelow(dir: string): number {
  return readFileSync('/proc/self/mounts', 'latin1')
    .split('\n')
    .filter((line) => line.includes(` ${dir}/`)).length;
}

export function takeSample(processes: Record<string, number>, root: string, at: number): Sample {
  const sample: Sample = { at, mounts: mountsBelow(root) };
  for (const [name, pid] of Object.entries(processes)) {
    const { rss, shared, threads, mappings } = memoryOf(pid);
    sample[`${name} MiB`] = rss;
    sample[`${name} shared MiB`] = shared;
    sample[`${name} mappings`] = mappings;
    sample[`${name} threads`] = threads;
    sample[`${name} descriptors`] = readdirSync(`/proc/${pid}/fd`).length;
  }
  return sample;
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? 0;
}

/** What may differ between the second and the last quarter: a part of the value, and an amount. */
function allowance(what: string): { part: number; amount: number } {
  if (what.endsWith('shared MiB')) return { part: 0.25, amount: 4 };
  // They go when their memory is collected.
  if (what.endsWith('mappings')) return { part: 0.5, amount: 1500 };
  if (what.endsWith('MiB')) return { part: 0.15, amount: 32 };
  if (what.endsWith('threads')) return { part: 0, amount: 2 };
  if (what.endsWith('descriptors')) return { part: 0.1, amount: 32 };
  return { part: 0, amount: 2 };
}

export interface Trend {
  what: string;
  /** Medians of the second and the last quarter of the run. */
  from: number;
  to: number;
  /** In the last three quarters. */
  most: number;
  grows: boolean;
}

/** The first quarter is warm-up: caches fill. What is flat then is flat for ever. */
export function trends(samples: readonly Sample[]): Trend[] {
  const quarter = samples.length >> 2;
  const second = samples.slice(quarter, 2 * quarter);
  const last = samples.slice(-quarter);
  return Object.keys(samples[0] ?? {})
    .filter((what) => what !== 'at')
    .map((what) => {
      const from = median(second.map((sample) => sample[what]!));
      const to = median(last.map((sample) => sample[what]!));
      const most = Math.max(...samples.slice(quarter).map((sample) => sample[what]!));
      const { part, amount } = allowance(what);
      return { what, from, to, most, grows: to > from * (1 + part) + amount };
    });
}
