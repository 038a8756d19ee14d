/** The table of requests: one line each, with the least bytes behind the header that its handler may rely on. */
import { E } from '../../sys/index.ts';
import { FUSE_OPCODE as OP } from '../abi/constants.ts';
import * as layout from '../abi/layout.ts';
import * as attrs from './attr-ops.ts';
import * as files from './file-ops.ts';
import { handleInit, INIT_MIN_BODY } from './init.ts';
import { ioctl } from './ioctl-ops.ts';
import * as names from './name-ops.ts';
import { NO_REPLY, type Session } from './session.ts';

export type Handler = (s: Session) => number;

export interface Opcode {
  name: string;
  minBody: number;
  /** The kernel expects no answer, whatever happens. */
  noReply: boolean;
  handler: Handler;
}

/** ENOSYS makes the kernel do it itself, or never ask again. */
const unsupported: Handler = () => -E.NOSYS;
const ignored: Handler = () => NO_REPLY;

const WITHOUT_REPLY = new Set<number>([OP.FORGET, OP.BATCH_FORGET, OP.INTERRUPT, OP.NOTIFY_REPLY]);

const LINES: [number, string, number, Handler][] = [
  [OP.LOOKUP, 'lookup', 2, names.lookup],
  [OP.FORGET, 'forget', layout.FORGET_IN.size, names.forget],
  [OP.BATCH_FORGET, 'batch_forget', layout.BATCH_FORGET_IN.size, names.batchForget],
  [OP.GETATTR, 'getattr', layout.GETATTR_IN.size, attrs.getattr],
  [OP.SETATTR, 'setattr', layout.SETATTR_IN.size, attrs.setattr],
  [OP.STATX, 'statx', layout.STATX_IN.size, attrs.statx],
  [OP.READLINK, 'readlink', 0, names.readlink],
  [OP.SYMLINK, 'symlink', 4, names.symlink],
  [OP.MKNOD, 'mknod', layout.MKNOD_IN.size, names.mknod],
  [OP.MKDIR, 'mkdir', layout.MKDIR_IN.size, names.mkdir],
  [OP.UNLINK, 'unlink', 2, names.unlink],
  [OP.RMDIR, 'rmdir', 2, names.rmdir],
  [OP.RENAME, 'rename', layout.RENAME_IN.size, names.rename],
  [OP.RENAME2, 'rename2', layout.RENAME2_IN.size, names.rename],
  [OP.LINK, 'link', layout.LINK_IN.size, names.link],
  [OP.OPEN, 'open', layout.OPEN_IN.size, files.open],
  [OP.CREATE, 'create', layout.CREATE_IN.size, names.create],
  [OP.TMPFILE, 'tmpfile', layout.CREATE_IN.size, names.create],
  [OP.READ, 'read', layout.READ_IN.size, files.read],
  [OP.WRITE, 'write', layout.WRITE_IN.size, files.write],
  [OP.STATFS, 'statfs', 0, attrs.statfs],
  [OP.RELEASE, 'release', layout.RELEASE_IN.size, files.release],
  [OP.FSYNC, 'fsync', layout.FSYNC_IN.size, files.fsync],
  [OP.FSYNCDIR, 'fsyncdir', layout.FSYNC_IN.size, files.fsync],
  [OP.SETXATTR, 'setxattr', layout.COMPAT_SETXATTR_IN_SIZE, attrs.setxattr],
  [OP.GETXATTR, 'getxattr', layout.GETXATTR_IN.size, attrs.getxattr],
  [OP.LISTXATTR, 'listxattr', layout.GETXATTR_IN.size, attrs.listxattr],
  [OP.REMOVEXATTR, 'removexattr', 2, attrs.removexattr],
  [OP.OPENDIR, 'opendir', layout.OPEN_IN.size, files.opendir],
  [OP.READDIR, 'readdir', layout.READ_IN.size, files.readdir],
  [OP.READDIRPLUS, 'readdirplus', layout.READ_IN.size, files.readdir],
  [OP.RELEASEDIR, 'releasedir', layout.RELEASE_IN.size, files.releasedir],
  [OP.FALLOCATE, 'fallocate', layout.FALLOCATE_IN.size, files.fallocate],
  [OP.LSEEK, 'lseek', layout.LSEEK_IN.size, files.lseek],
  [OP.COPY_FILE_RANGE, 'copy_file_range', layout.COPY_FILE_RANGE_IN.size, files.copyFileRange],
  [OP.COPY_FILE_RANGE_64, 'copy_file_range_64', layout.COPY_FILE_RANGE_IN.size, files.copyFileRange],
  [OP.INIT, 'init', INIT_MIN_BODY, handleInit],
  // The transport destroys the server when the descriptor reports the end, which always follows.
  [OP.DESTROY, 'destroy', 0, () => 0],
  [OP.INTERRUPT, 'interrupt', 0, ignored],
  [OP.NOTIFY_REPLY, 'notify_reply', 0, ignored],
  [OP.IOCTL, 'ioctl', layout.IOCTL_IN.size, ioctl],
  [OP.FLUSH, 'flush', 0, unsupported],
  [OP.ACCESS, 'access', 0, unsupported],
  [OP.POLL, 'poll', 0, unsupported],
  [OP.BMAP, 'bmap', 0, unsupported],
  [OP.SYNCFS, 'syncfs', 0, unsupported],
  [OP.GETLK, 'getlk', 0, unsupported],
  [OP.SETLK, 'setlk', 0, unsupported],
  [OP.SETLKW, 'setlkw', 0, unsupported],
];

/** By opcode; undefined is answered ENOSYS. */
export const OPCODES: readonly (Opcode | undefined)[] = (() => {
  const table: (Opcode | undefined)[] = new Array(64).fill(undefined);
  for (const [opcode, name, minBody, handler] of LINES) {
    table[opcode] = { name, minBody, noReply: WITHOUT_REPLY.has(opcode), handler };
  }
  return table;
})();
