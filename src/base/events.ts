/** Typed progress events: long work emits them, only the reporter at the edge makes text of them. */

export interface ProgressEvent {
  /** What is going on, e.g. 'fetch', 'import', 'resolve', 'compose', 'configure', 'update'. */
  phase: string;
  /** One line for people. */
  message?: string;
  /** Units done and to do, when countable. */
  done?: number;
  total?: number;
  /** Bytes done and to do, when countable. */
  doneBytes?: number;
  totalBytes?: number;
}

export type Progress = (event: ProgressEvent) => void;

export const noProgress: Progress = () => {};
