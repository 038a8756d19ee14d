/** Branded types: mixing them does not compile. No run-time cost. */

declare const brand: unique symbol;
export type Brand<T, B extends string> = T & { readonly [brand]: B };

/** A file name or path as a latin1 string: one character a byte, so every Linux name survives. */
export type Name = Brand<string, 'Name'>;
/** An open file descriptor. */
export type Fd = Brand<number, 'Fd'>;
/** `REPO/LAYER VERSION`, the name of one layer unit on this host. */
export type UnitId = Brand<string, 'UnitId'>;
/** 64 lower-case hexadecimal digits of a SHA-256. */
export type Digest = Brand<string, 'Digest'>;

export function unitId(repo: string, layer: string, version: string): UnitId {
  return `${repo}/${layer} ${version}` as UnitId;
}

/** Splits `REPO/LAYER VERSION`; null when it is not of that form. */
export function parseUnitId(text: string): { repo: string; layer: string; version: string } | null {
  const m = /^([^/\s]+)\/(\S+) (\S+)$/.exec(text);
  return m ? { repo: m[1]!, layer: m[2]!, version: m[3]! } : null;
}
