/**
 * Where the kernel opens files without telling, a removed file keeps its space until the kernel forgets the node; when nobody has it open that is on its way before
 * unlink(2) returns. So who asks for free space, or finds none, after a removal is answered when everything that the kernel had queued was read.
 */
import { E } from '../../sys/index.ts';
import { FUSE_OPCODE } from '../abi/constants.ts';
import { OUT_HEADER } from '../abi/layout.ts';
import { handle, type ServeContext, type ServedMount, serveRequests } from './served-mount.ts';

export interface Room {
  /** Names were removed since the queue was empty last. */
  removed: boolean;
  /** Descriptors are being closed in the pool. */
  closing: number;
  readonly waiting: Buffer[];
  /** What waited is done again. */
  again: boolean;
}

/** Requests that are read at a time. */
const BUDGET = 16;

export const newRoom = (): Room => ({ removed: false, closing: 0, waiting: [], again: false });

const REMOVES: readonly number[] = [FUSE_OPCODE.UNLINK, FUSE_OPCODE.RENAME, FUSE_OPCODE.RENAME2];

/** The request in the buffer was carried out, with `result` bytes of reply. True: it is not answered, but done again later. */
export function waitsForRoom(
  ctx: ServeContext,
  m: ServedMount,
  o: { opcode: number; length: number; result: number },
): boolean {
  const { room, server } = m;
  if (server.features?.noOpen !== true) return false;
  if (REMOVES.includes(o.opcode)) room.removed = true;
  if (room.again || o.result <= 0 || (!room.removed && room.closing === 0)) return false;
  const errno = ctx.buffers.replyView.getInt32(OUT_HEADER.error, true);
  if (o.opcode !== FUSE_OPCODE.STATFS && errno !== -E.NOSPC && errno !== -E.DQUOT) return false;
  if (room.waiting.push(Buffer.from(ctx.buffers.request.subarray(0, o.length))) === 1) {
    // This turn may end before the queue does, and nothing else may come.
    ctx.later(() => {
      if (room.waiting.length > 0 && room.closing === 0 && !m.gone) serveRequests(ctx, m, BUDGET);
      return room.waiting.length === 0 || m.gone;
    });
  }
  return true;
}

/** Nothing more is in the kernel's queue. */
export function queueIsEmpty(ctx: ServeContext, m: ServedMount): void {
  m.room.removed = false;
  goOnWithRoom(ctx, m);
}

/** A descriptor was closed. */
export function goOnWithRoom(ctx: ServeContext, m: ServedMount): void {
  const { room } = m;
  if (room.waiting.length === 0 || room.removed || room.closing > 0 || m.gone || m.held) return;
  room.again = true;
  for (const bytes of room.waiting.splice(0)) {
    bytes.copy(ctx.buffers.request);
    handle(ctx, m, bytes.length);
  }
  room.again = false;
}
