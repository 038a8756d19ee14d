/**
 * Takes over one VLFS from a strata-fs that was killed: its connection and ledger come from the process that holds the descriptors. What is
 * noted anew here counts when the main thread says so; until then nothing is served, so that this process may be killed too.
 */
import * as sys from '../../sys/index.ts';
import type { VlfsSpec } from '../../vlfs/contract.ts';
import { type LedgerContent, readLedger } from '../../vlfs/index.ts';
import { mapLedger } from '../ledger-memory.ts';
import { featuresOf } from '../server/init.ts';
import { resendMessage } from '../transport/notify.ts';
import type { ServedMount } from './served-mount.ts';

export interface FormerMount {
  id: string;
  /** With the stack that counts now. */
  spec: VlfsSpec;
  /** The connection and the former ledger, in this process. */
  fuseFd: number;
  formerLedgerFd: number;
}

export interface FormerState {
  content: LedgerContent;
  take(fd: number): number;
}

/** What the former process noted, or null when that cannot be read. Closes the descriptor of its ledger. */
export function readFormer(mount: FormerMount, pidfd: number): FormerState | null {
  const memory = mapLedger(mount.formerLedgerFd);
  sys.close(mount.formerLedgerFd);
  const content = memory === null ? null : readLedger(memory);
  return content === null ? null : { content, take: (fd) => sys.pidfdGetfd(pidfd, fd) };
}

/** Before the first request: the server goes on as the former one. False when the connection had not begun. */
export function continueServer(m: ServedMount, content: LedgerContent): boolean {
  if (content.fuseMinor === 0) return false;
  m.server.restore(featuresOf(content.fuseMinor, content.features), content);
  return true;
}

/** The kernel sends again what was not answered. */
export function askAgain(m: ServedMount): void {
  m.awaitsResent = true;
  const message = resendMessage();
  sys.write(m.fd, message, message.length);
}
