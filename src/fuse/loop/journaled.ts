/** Which requests are noted in the ledger's journal: those that may not be done twice, or whose answer gives something away. */
import { FUSE_OPCODE as OP } from '../abi/constants.ts';

const NOTED = new Uint8Array(64);
for (const opcode of [
  OP.MKNOD,
  OP.MKDIR,
  OP.SYMLINK,
  OP.LINK,
  OP.UNLINK,
  OP.RMDIR,
  OP.RENAME,
  OP.RENAME2,
  OP.CREATE,
  OP.TMPFILE,
  OP.OPEN,
  OP.SETXATTR,
  OP.REMOVEXATTR,
])
  NOTED[opcode] = 1;

export function isJournaled(opcode: number): boolean {
  return opcode < 64 && NOTED[opcode] === 1;
}

/** The top bit of `unique`: the kernel sends the request again. */
export const RESENT = 0x8000_0000;
