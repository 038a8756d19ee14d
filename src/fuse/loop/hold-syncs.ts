/**
 * Keeping writers of some files waiting while a private layer is frozen. write(2) through passthrough does not come to the server, but it takes the lock of the
 * mount's inode, and so does fsync(2), which holds it until it is answered. So stratad syncs these files, and here the answers wait. A sync
 * that a program asked for meanwhile is done afterwards; those of stratad only held the lock, and are answered as they are.
 */
import * as sys from '../../sys/index.ts';
import { FUSE_OPCODE, FUSE_WRITE_CACHE } from '../abi/constants.ts';
import { FSYNC_IN, IN_HEADER, OPEN_OUT, OUT_HEADER, WRITE_IN } from '../abi/layout.ts';
import { getU64 } from '../server/buffers.ts';
import { handle, type ServeContext, type ServedMount } from './served-mount.ts';

export interface Hold {
  nodes: ReadonlySet<number>;
  /** By handles that were opened meanwhile: the thread that opened it. */
  openers: Map<number, number>;
  /** Requests that wait, by node. */
  held: Map<number, Buffer[]>;
  /** Threads whose syncs hold, and do, nothing else. */
  threads: ReadonlySet<number>;
  /** What a mapping changed, of any file, counts. */
  all: boolean;
  /** What a mapping changed was written back meanwhile. */
  wroteBack: boolean;
}

/** Begins to hold; what was held before goes on. */
export function holdSyncs(ctx: ServeContext, m: ServedMount, nodes: readonly number[], all = false): void {
  letGo(ctx, m);
  m.hold = {
    all,
    nodes: new Set(nodes),
    openers: new Map(),
    held: new Map(),
    threads: new Set(),
    wroteBack: false,
  };
}

/** Holds nothing, but notes whether anything that a mapping changed is written back from now on. */
export function watchWriteback(ctx: ServeContext, m: ServedMount): void {
  holdSyncs(ctx, m, [], true);
}

/** The request in the buffer waits, when it is one that is held. */
export function isHeld(ctx: ServeContext, { hold }: ServedMount, opcode: number, length: number): boolean {
  if (hold === null || (opcode !== FUSE_OPCODE.FSYNC && opcode !== FUSE_OPCODE.WRITE)) return false;
  const node = getU64(ctx.buffers.requestView, IN_HEADER.nodeid);
  if (opcode === FUSE_OPCODE.WRITE) {
    if (hold.held.has(node) || (hold.all && isWriteback(ctx))) hold.wroteBack = true;
    return false;
  }
  if (!hold.nodes.has(node)) return false;
  const bytes = Buffer.from(ctx.buffers.request.subarray(0, length));
  hold.held.set(node, [...(hold.held.get(node) ?? []), bytes]);
  return true;
}

/** The WRITE in the buffer comes from the page cache, not from write(2). */
function isWriteback({ buffers: { requestView } }: ServeContext): boolean {
  return (requestView.getUint32(IN_HEADER.size + WRITE_IN.write_flags, true) & FUSE_WRITE_CACHE) !== 0;
}

/** The reply in the buffer is to an open: who opened is noted. */
export function noteOpener(ctx: ServeContext, { hold }: ServedMount, opcode: number, length: number): void {
  if (hold === null || opcode !== FUSE_OPCODE.OPEN || length <= OUT_HEADER.size) return;
  const fh = getU64(ctx.buffers.replyView, OUT_HEADER.size + OPEN_OUT.fh);
  hold.openers.set(fh, ctx.buffers.requestView.getUint32(IN_HEADER.pid, true));
}

/** Whether all of these nodes are held. */
export function areHeld({ hold }: ServedMount, nodes: readonly number[]): boolean {
  return nodes.every((node) => hold?.held.has(node) === true);
}

/** Answers, or does, what was held. True: what a mapping changed was written back meanwhile. */
export function letGo(ctx: ServeContext, m: ServedMount): boolean {
  const { hold } = m;
  m.hold = null;
  for (const bytes of hold === null ? [] : [...hold.held.values()].flat()) {
    bytes.copy(ctx.buffers.request);
    const fh = getU64(ctx.buffers.requestView, IN_HEADER.size + FSYNC_IN.fh);
    if (hold!.threads.has(hold!.openers.get(fh) ?? 0)) answerNothing(ctx, m, bytes);
    else handle(ctx, m, bytes.length);
  }
  return hold?.wroteBack ?? false;
}

function answerNothing(ctx: ServeContext, m: ServedMount, request: Buffer): void {
  const { reply, replyView } = ctx.buffers;
  replyView.setUint32(OUT_HEADER.len, OUT_HEADER.size, true);
  replyView.setInt32(OUT_HEADER.error, 0, true);
  reply.set(request.subarray(IN_HEADER.unique, IN_HEADER.unique + 8), OUT_HEADER.unique);
  sys.write(m.fd, reply, OUT_HEADER.size);
}
