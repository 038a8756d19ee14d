/**
 * The FUSE server of one connection, bytes in, bytes out: a request in the request buffer, its reply in the reply buffer. It knows
 * no transport. It allocates nothing for a request (but the strings of its names) and never throws: lengths and numbers are checked here, and an
 * exception of the VLFS becomes EIO. While a request is PENDING its bytes must be kept by the caller (see loop/).
 */
import { E } from '../../sys/index.ts';
import { PENDING, type SlowJob, type StaleName, type VfsOperations } from '../../vlfs/contract.ts';
import type { Ledger } from '../../vlfs/index.ts';
import { FUSE_OPCODE } from '../abi/constants.ts';
import { IN_HEADER, OUT_HEADER } from '../abi/layout.ts';
import {
  type BackingDevice,
  type BackingTable,
  createBackingTable,
  type FormerOpens,
} from './backing-table.ts';
import { type FuseBuffers, getU64 } from './buffers.ts';
import { eachPlusNode } from './directory-sink.ts';
import { putCopied } from './file-ops.ts';
import type { Features } from './init.ts';
import { OPCODES } from './opcodes.ts';
import { createSession, NO_REPLY } from './session.ts';

export interface FuseServerOptions {
  ops: VfsOperations;
  /** Shared by all servers of a thread. */
  buffers: FuseBuffers;
  /** Passthrough, when the transport has it. */
  backingDevice: BackingDevice | null;
  /** Where opens are noted for a later process. */
  ledger?: Ledger | null;
  /** Called with what the VLFS threw; the request is answered EIO. */
  onException: (opcode: string, error: unknown) => void;
}

export interface FuseServer {
  /** Handles the request of `length` bytes in the request buffer. Returns the reply's length, 0 when there is none, or PENDING. */
  handle(length: number): number;
  /** The job of the request that was just PENDING. */
  takeJob(): SlowJob;
  /** The reply to a request (its bytes in the request buffer again) with the result of its job. */
  answerJob(result: number): number;
  /** The kernel did not take the last reply (interrupted): lookups and handles that it gave are taken back. */
  revokeLast(): void;
  /** After a takeover: the connection goes on as it was agreed on. */
  restore(features: Features, former: FormerOpens): void;
  /** The connection is gone. */
  destroy(): void;
  /** While set, the kernel may not keep the names it is given: they are about to change. */
  shortLived: boolean;
  /** The names of the last lookups: their answers may not be in place in the kernel yet. */
  recentNames(): StaleName[];
  readonly features: Features | null;
  readonly backing: BackingTable;
}

export function createFuseServer(options: FuseServerOptions): FuseServer {
  const { ops, buffers, onException } = options;
  const backing = createBackingTable(options.backingDevice, options.ledger);
  const s = createSession({ ops, buffers, backing });
  const { view, out, caller } = s;
  let destroyed = false;

  /** Header of a reply with `result` payload bytes, or an errno without any. */
  function finish(result: number): number {
    const payload = result > 0 ? result : 0;
    const length = OUT_HEADER.size + payload;
    out.setUint32(OUT_HEADER.len, length, true);
    out.setInt32(OUT_HEADER.error, result < 0 ? result : 0, true);
    out.setUint32(OUT_HEADER.unique, view.getUint32(IN_HEADER.unique, true), true);
    out.setUint32(OUT_HEADER.unique + 4, view.getUint32(IN_HEADER.unique + 4, true), true);
    return length;
  }

  function dispatch(length: number): number {
    const declared = view.getUint32(IN_HEADER.len, true);
    if (declared !== length) return -E.INVAL;
    s.end = length - view.getUint16(IN_HEADER.total_extlen, true) * 8;
    s.opcode = view.getUint32(IN_HEADER.opcode, true);
    const entry = OPCODES[s.opcode];
    if (entry === undefined) return -E.NOSYS;
    if (s.end < IN_HEADER.size + entry.minBody) return entry.noReply ? NO_REPLY : -E.INVAL;
    if (s.features === null && s.opcode !== FUSE_OPCODE.INIT) return -E.IO;
    s.node = getU64(view, IN_HEADER.nodeid);
    if (s.node < 0) return -E.STALE;
    caller.uid = view.getUint32(IN_HEADER.uid, true);
    caller.gid = view.getUint32(IN_HEADER.gid, true);
    caller.pid = view.getUint32(IN_HEADER.pid, true);
    caller.umask = 0;
    caller.killPriv = false;
    return entry.handler(s);
  }

  function guarded(length: number): number {
    try {
      return dispatch(length);
    } catch (error) {
      onException(OPCODES[s.opcode]?.name ?? String(s.opcode), error);
      return -E.IO;
    }
  }

  return {
    backing,
    get shortLived() {
      return s.shortLived;
    },
    set shortLived(value) {
      s.shortLived = value;
    },
    recentNames: () => s.recent.filter(({ parent }) => parent > 0).map((recent) => ({ ...recent })),
    get features() {
      return s.features;
    },
    handle(length) {
      s.grant = 'none';
      caller.job = null;
      if (length < IN_HEADER.size) return 0;
      const result = guarded(length);
      if (result === NO_REPLY) return 0;
      if (result !== PENDING) return finish(result);
      if (caller.job !== null) return PENDING;
      onException(OPCODES[s.opcode]?.name ?? '', new Error('PENDING without a job'));
      return finish(-E.IO);
    },
    takeJob() {
      const job = caller.job;
      if (job === null) throw new Error('no job');
      caller.job = null;
      return job;
    },
    answerJob(result) {
      s.grant = 'none';
      s.opcode = view.getUint32(IN_HEADER.opcode, true);
      const copies = s.opcode === FUSE_OPCODE.COPY_FILE_RANGE || s.opcode === FUSE_OPCODE.COPY_FILE_RANGE_64;
      return finish(result < 0 ? result : copies ? putCopied(s, result) : 0);
    },
    revokeLast() {
      const { grant, grantNode, grantFh } = s;
      s.grant = 'none';
      if (grant === 'open' || grant === 'create') {
        backing.released(grantNode, grantFh);
        ops.release(grantNode, grantFh);
      }
      if (grant === 'opendir') ops.releasedir(grantNode, grantFh);
      if (grant === 'entry' || grant === 'create') ops.forget(grantNode, 1);
      if (grant === 'plus')
        eachPlusNode(out, out.getUint32(OUT_HEADER.len, true) - OUT_HEADER.size, (node) =>
          ops.forget(node, 1),
        );
    },
    restore(features, former) {
      s.features = features;
      backing.enabled = features.passthrough;
      ops.init(features);
      backing.restore(former);
    },
    destroy() {
      if (destroyed) return;
      destroyed = true;
      backing.closeAll();
      ops.destroy();
    },
  };
}
