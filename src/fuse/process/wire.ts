/**
 * The protocol between stratad and strata-fs: one JSON value a line, requests {seq, method, params}, answers {seq, result} or {seq, error}.
 * Stacks and the contents of private files are large and shared by many changes, so a relayer carries each once, in a table.
 */
import { ERROR_CODES, type ErrorCode, LIMITS, StrataError } from '../../base/index.ts';
import type { PrivateFile, StackSpec } from '../../vlfs/contract.ts';

export interface WireRequest {
  seq: number;
  method: string;
  params: unknown;
}

export interface WireError {
  code: ErrorCode;
  message: string;
  hint?: string;
  data?: Record<string, unknown>;
}

export type WireReply = { seq: number; result: unknown } | { seq: number; error: WireError };

/** Bytes of one line. */
const MAX_LINE_BYTES = LIMITS.requestBytes * 4;

export function encodeLine(value: unknown): string {
  return `${JSON.stringify(value)}\n`;
}

/** Splits a stream into lines; throws LIMIT when one is too long. */
export function createLineReader(onLine: (line: string) => void): (chunk: Buffer) => void {
  let parts: Buffer[] = [];
  let size = 0;
  return (chunk) => {
    let rest = chunk;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      parts.push(rest.subarray(0, end));
      const line = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
      parts = [];
      size = 0;
      rest = rest.subarray(end + 1);
      onLine(line.toString('utf8'));
    }
    if (rest.length === 0) return;
    parts.push(rest);
    size += rest.length;
    if (size > MAX_LINE_BYTES) throw new StrataError('LIMIT', 'a message to strata-fs is too long');
  };
}

export function errorFromWire(error: WireError): StrataError {
  const code = error.code in ERROR_CODES ? error.code : 'INTERNAL';
  return new StrataError(code, error.message, { hint: error.hint, data: error.data });
}

export interface RelayerChange {
  id: string;
  stack: StackSpec;
  privateFiles?: PrivateFile[];
}

export interface WireRelayer {
  stacks: StackSpec[];
  /** base64 */
  contents: string[];
  changes: { id: string; stack: number; files: { path: string; content: number | null }[] | null }[];
}

/** The place of `item` in `table`, by identity of `key`. */
function intern<K, V>(seen: Map<K, number>, table: V[], key: K, make: () => V): number {
  const known = seen.get(key);
  if (known !== undefined) return known;
  table.push(make());
  seen.set(key, table.length - 1);
  return table.length - 1;
}

export function packRelayer(changes: RelayerChange[]): WireRelayer {
  const wire: WireRelayer = { stacks: [], contents: [], changes: [] };
  const stacks = new Map<string, number>();
  const contents = new Map<Uint8Array, number>();
  for (const { id, stack, privateFiles } of changes) {
    const files = privateFiles?.map(({ path, content }) => ({
      path,
      content:
        content === null
          ? null
          : intern(contents, wire.contents, content, () => Buffer.from(content).toString('base64')),
    }));
    wire.changes.push({
      id,
      stack: intern(stacks, wire.stacks, stack.key, () => stack),
      files: files ?? null,
    });
  }
  return wire;
}

export function unpackRelayer(wire: WireRelayer): RelayerChange[] {
  const contents = wire.contents.map((text) => new Uint8Array(Buffer.from(text, 'base64')));
  return wire.changes.map(({ id, stack, files }) => {
    const spec = wire.stacks[stack];
    if (spec === undefined) throw new StrataError('BAD_FORMAT', 'a relayer names a stack it does not carry');
    const change: RelayerChange = { id, stack: spec };
    if (files !== null) {
      change.privateFiles = files.map(({ path, content }) => ({
        path,
        content: content === null ? null : (contents[content] ?? null),
      }));
    }
    return change;
  });
}
