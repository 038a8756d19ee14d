/** Messages between the main thread of strata-fs and its serving threads. Every command but `stack` has one answer with the same seq. */
import type { MessagePort } from 'node:worker_threads';
import type { ErrorCode } from '../../base/index.ts';
import type { FreshPrivate, PrivateFile, StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import type { Features } from '../server/init.ts';
import type { WriteBarrier } from './freeze-mount.ts';
import type { FormerMount } from './take-over.ts';

export type LoopCommand =
  /** A stack that commands name from now on; `forget`: all before it are not named any more. */
  | { kind: 'stack'; name: string; stack: StackSpec; forget: boolean }
  /** Opens a VLFS; it is served once 'serve' gives its connection. Answers the descriptor of its ledger, or -1. */
  | { kind: 'open'; id: string; spec: Omit<VlfsSpec, 'stack'>; stack: string }
  /** Before mount(2): the connection that 'serve' will get. */
  | { kind: 'connect'; id: string; fd: number }
  | { kind: 'serve'; id: string; fd: number }
  /** Opens VLFSs that a killed process served; `pidfd` is the process that holds its descriptors. Nothing is served before 'go-on'. */
  | { kind: 'take-over'; mounts: FormerMount[]; pidfd: number }
  | { kind: 'go-on'; ids: string[] }
  /** Closes a VLFS that could not be mounted. */
  | { kind: 'drop'; id: string }
  | { kind: 'relayer'; changes: { id: string; stack: string; privateFiles?: PrivateFile[] }[] }
  /** From here on syncs of these nodes, which keep their writers waiting, are not answered before the freeze that comes next. */
  | { kind: 'hold'; id: string; nodes: number[] }
  /**
   * Freezes the private layer into `dir`, the topmost level of the stack, once the nodes of the barrier are held. Answers the files that changed while they
   * were copied; none: it is done.
   */
  | { kind: 'freeze'; id: string; stack: string; dir: string; barrier: WriteBarrier | null }
  /** Answers when all copies that follow the last freeze are made. */
  | { kind: 'follow'; id: string }
  /** Ends a hold for which no freeze came. */
  | { kind: 'let-go'; id: string }
  | { kind: 'revert'; id: string; paths: string[] }
  | { kind: 'reset'; id: string; keep: string[] }
  | { kind: 'exchange'; id: string; stack: string; fresh: FreshPrivate | null }
  /** Content that no VLFS shows from now on; and each reads anew whether it is checked at open. */
  | { kind: 'quarantine'; digests: string[] }
  | { kind: 'status' }
  /** Answers when the process of this pidfd has ended, and closes that. */
  | { kind: 'await-end'; pidfd: number }
  /** What was compiled is kept for the next process. */
  | { kind: 'keep-compiled' }
  | { kind: 'stop' };

/** The ledger's descriptor (-1: none) of a VLFS that was taken over, or why it was not. */
export type TakeOverOutcome = { id: string; ledgerFd: number; failure: string | null };

export interface LoopMessage {
  seq: number;
  command: LoopCommand;
}

export interface LoopFailure {
  code: ErrorCode;
  message: string;
  hint?: string;
}

/** One VLFS of a relayer: null is success. */
export type RelayerOutcome = { id: string; failure: LoopFailure | null };

export interface ServedStatus {
  id: string;
  stackKey: string;
  requests: number;
  /** The same by kind (FUSE_OPCODE). */
  kinds: Record<string, number>;
  openFiles: number;
  passthroughOpens: number;
  features: Features | null;
}

export type LoopReply =
  | { seq: number; value: unknown }
  | { seq: number; failure: LoopFailure }
  /** The last mountpoint of this VLFS is gone and everything of it is closed. */
  | { event: 'gone'; id: string; ledgerFd: number }
  /** Jobs wait for this thread of the pool, which is not there yet. */
  | { event: 'pool'; thread: number }
  | { event: 'log'; line: string };

export interface LoopData {
  commands: MessagePort;
  /** Rung after each command. */
  commandFd: number;
  pool: MessagePort[];
  /** Rung by the pool after each result. */
  doneFd: number;
  /** Microseconds to look for the next request before sleeping. */
  spinUs: number;
  /** Objects that the VLFSs of the thread may know, for tests. */
  mostNodes?: number | undefined;
  /** Content that no VLFS shows. */
  quarantine: string[];
  /** Module that exports openVlfs. */
  vlfsModule: string;
}
