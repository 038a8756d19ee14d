/** Reading the words of a command line: typed access to arguments and options, names of layers, paths. */
import { resolve } from 'node:path';
import { StrataError } from '../base/index.ts';
import type { Invocation } from './command.ts';

/** The argument at a place; the parser has made sure that it is there. */
export function word({ args }: Invocation, place: number): string {
  return args[place] as string;
}

export function optionalWord({ args }: Invocation, place: number): string | undefined {
  return args[place] as string | undefined;
}

export function wordList({ args }: Invocation, place: number): string[] {
  return (args[place] as string[] | undefined) ?? [];
}

export function text({ options }: Invocation, key: string): string | undefined {
  return options[key] as string | undefined;
}

export function texts({ options }: Invocation, key: string): string[] {
  return (options[key] as string[] | undefined) ?? [];
}

export function number({ options }: Invocation, key: string): number | undefined {
  return options[key] as number | undefined;
}

export function flag({ options }: Invocation, key: string): boolean {
  return options[key] === true;
}

/** An option whose value is a path on this host, made absolute. */
export function pathOption(invocation: Invocation, key: string): string | undefined {
  const value = text(invocation, key);
  return value === undefined ? undefined : resolve(value);
}

/** `{ key: value }`, or nothing when the value is undefined (for exact optional properties). */
export function maybe<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]?: V });
}

/** `REPO/NAME`. Throws USAGE otherwise. */
export function splitLayer(layerWord: string): { repo: string; layer: string } {
  const match = /^([^/]+)\/([^/]+)$/.exec(layerWord);
  if (!match) {
    throw new StrataError('USAGE', `${JSON.stringify(layerWord)} does not name a layer`, {
      hint: 'write it as REPO/NAME, for example main/nginx',
    });
  }
  return { repo: match[1]!, layer: match[2]! };
}

/** An integer of at least `minimum`. Throws USAGE otherwise. */
export function parseCount(what: string, value: string, minimum: number): number {
  const parsed = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
  if (!(parsed >= minimum)) {
    throw new StrataError(
      'USAGE',
      `${what} must be a whole number of at least ${minimum}, not ${JSON.stringify(value)}`,
    );
  }
  return parsed;
}

const UNITS: Record<string, number> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40, P: 2 ** 50 };

/** Bytes: a number with K, M, G, T or P (1024, as those of df -h), or with kB, MB, GB, TB or PB (1000). Throws USAGE otherwise. */
export function parseSize(what: string, value: string): number {
  const [, digits, unit = '', rest = ''] = /^(\d+(?:\.\d+)?)([KMGTP]?)(i?B)?$/i.exec(value) ?? [];
  const factor = UNITS[unit.toUpperCase()]!;
  const power = Math.round(Math.log2(factor) / 10);
  const bytes = Math.floor(Number(digits) * (rest.toUpperCase() === 'B' ? 1000 ** power : factor));
  if (digits !== undefined && Number.isSafeInteger(bytes)) return bytes;
  throw new StrataError('USAGE', `${what} must be a size like 10G or 500M, not ${JSON.stringify(value)}`);
}

const SECONDS = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 } as const;

/** A duration such as `90s`, `15m`, `2h`, `1d12h`, in seconds. Throws USAGE. */
export function duration(what: string, value: string): number {
  if (!/^(\d{1,9}[smhdw])+$/.test(value)) {
    throw new StrataError('USAGE', `${what} must be a duration, not ${JSON.stringify(value)}`, {
      hint: 'write it as 90s, 15m, 2h, 7d or 4w',
    });
  }
  let seconds = 0;
  for (const [, count, unit] of value.matchAll(/(\d+)([smhdw])/g))
    seconds += Number(count) * SECONDS[unit as keyof typeof SECONDS];
  return seconds;
}

/** An option whose value is a duration, in seconds. */
export function durationOption(invocation: Invocation, key: string): number | undefined {
  const value = text(invocation, key);
  return value === undefined ? undefined : duration(`--${key}`, value);
}

/** A path inside an appliance: always absolute there. */
export function insidePath(path: string): string {
  return path.startsWith('/') ? path : `/${path}`;
}
