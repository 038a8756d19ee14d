/**
 * The protocol between stratad and strata-fs: one JSON value a line, requests {seq, method, params}, answers {seq, result} or {seq, error}.
 * Stacks are large and used again and again: they are named by their keys, and sent when strata-fs does not know one. The contents of private files are
 * shared by many changes, so a relayer carries each once, in a table.
 */
import { ERROR_CODES, type ErrorCode, LIMITS, StrataError } from '../../base/index.ts';
import type { FreshPrivate, PrivateFile, StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import type { MountRequest } from '../contract.ts';
import type { WriteBarrier } from '../loop/freeze-mount.ts';

/** The number of a request that nobody waits for. */
export const NO_ANSWER = 0;

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

/** A mount as it is sent: its stack by the key. */
export type WireMount = Omit<MountRequest, 'vlfs'> & { vlfs: Omit<VlfsSpec, 'stack'> & { stack: string } };

export function packMount({ vlfs, ...rest }: MountRequest): WireMount {
  return { ...rest, vlfs: { ...vlfs, stack: vlfs.stack.key } };
}

/** The whole stack: it is new. */
export interface WirePrepareFreeze {
  id: string;
  stack: StackSpec;
}

/** `stack`: by its key. */
export interface WireFreeze {
  id: string;
  stack: string;
  dir: string;
  barrier: WriteBarrier | null;
}

/** `stack`: by its key. */
export interface WireExchange {
  id: string;
  stack: string;
  fresh: FreshPrivate | null;
}

export interface RelayerChange {
  id: string;
  stack: StackSpec;
  privateFiles?: PrivateFile[];
}

export interface WireRelayer {
  /** base64 */
  contents: string[];
  /** Stacks by their keys. */
  changes: { id: string; stack: string; files: { path: string; content: number | null }[] | null }[];
}

export function packRelayer(changes: RelayerChange[]): WireRelayer {
  const wire: WireRelayer = { contents: [], changes: [] };
  const places = new Map<Uint8Array, number>();
  const place = (content: Uint8Array): number => {
    const known = places.get(content);
    if (known !== undefined) return known;
    places.set(content, wire.contents.length);
    return wire.contents.push(Buffer.from(content).toString('base64')) - 1;
  };
  for (const { id, stack, privateFiles } of changes) {
    const files = privateFiles?.map(({ path, content }) => ({
      path,
      content: content === null ? null : place(content),
    }));
    wire.changes.push({ id, stack: stack.key, files: files ?? null });
  }
  return wire;
}

export function unpackRelayer(wire: WireRelayer, stackOf: (key: string) => StackSpec): RelayerChange[] {
  const contents = wire.contents.map((text) => new Uint8Array(Buffer.from(text, 'base64')));
  return wire.changes.map(({ id, stack, files }) => {
    const change: RelayerChange = { id, stack: stackOf(stack) };
    if (files !== null) {
      change.privateFiles = files.map(({ path, content }) => ({
        path,
        content: content === null ? null : (contents[content] ?? null),
      }));
    }
    return change;
  });
}
