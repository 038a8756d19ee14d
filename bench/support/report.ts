/** Medians, spreads, and the sections of docs/performance.md that benchmarks write. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length === 0
    ? Number.NaN
    : sorted.length % 2 === 1
      ? sorted[middle]!
      : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** `median (min to max)`; only the value when there is one. */
export function spread(values: number[], format: (value: number) => string): string {
  if (values.length < 2) return format(median(values));
  return `${format(median(values))} (${format(Math.min(...values))} to ${format(Math.max(...values))})`;
}

/** What machine the figures are from. */
export function machineLine(): string {
  return `Measured on ${new Date().toISOString().slice(0, 10)}: ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node.js ${process.versions.node}.`;
}

/** Replaces (or adds) the section `## TITLE` of a markdown file; the other sections stay as they are. */
export function writeSection(file: string, title: string, command: string, lines: string[]): void {
  const old = existsSync(file) ? readFileSync(file, 'utf8') : '# Performance\n';
  const section = `## ${title}\n\nGiven by \`${command}\`. ${lines.join('\n')}\n`;
  const parts = old.split(/^(?=## )/m);
  const at = parts.findIndex((part) => part.startsWith(`## ${title}\n`));
  if (at < 0) parts.push(`\n${section}`);
  else parts[at] = at < parts.length - 1 ? `${section}\n` : section;
  writeFileSync(
    file,
    `${parts
      .join('')
      .replace(/\n{3,}/g, '\n\n')
      .trimEnd()}\n`,
  );
}

/** A figure and what it has to be. */
export interface Target {
  what: string;
  value: number;
  atMost?: number;
  atLeast?: number;
}

export function isMet({
  value,
  atMost = Number.POSITIVE_INFINITY,
  atLeast = Number.NEGATIVE_INFINITY,
}: Target): boolean {
  return value <= atMost && value >= atLeast;
}

/** One line a target: met or missed. A figure that is missing (NaN) is missed. */
export function targetLines(targets: readonly Target[]): string[] {
  return [
    `Targets: ${targets.filter(isMet).length} of ${targets.length} met.`,
    '',
    ...targets.map((target) => {
      const wanted = target.atMost === undefined ? `at least ${target.atLeast}` : `at most ${target.atMost}`;
      return `- ${isMet(target) ? 'met' : '**missed**'}: ${target.what}: ${target.value.toFixed(2)} (${wanted})`;
    }),
  ];
}

/** Requests by kind. */
export type Counts = Record<string, number>;

export const sumOfCounts = (counts: Counts): number =>
  Object.values(counts).reduce((total, count) => total + count, 0);

/** The sum, then the kinds, the most frequent first. */
export function shownCounts(counts: Counts): string {
  const sorted = Object.entries(counts).sort((a, b) => b[1] - a[1]);
  const kinds = sorted.map(([kind, count]) => `${kind} ${count}`).join(', ');
  return `${sumOfCounts(counts)}${kinds === '' ? '' : `: ${kinds}`}`;
}
