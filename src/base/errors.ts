/**
 * The one error class of Strata's control side, and its table: code -> exit status -> HTTP status.
 * The data plane does not throw: it returns negative errno numbers (see src/vlfs/contract.ts).
 */

/** exit: 1 failed, 2 wrong usage, 3 refused because it cannot be satisfied. */
export const ERROR_CODES = {
  INTERNAL: { exit: 1, http: 500 },
  IO: { exit: 1, http: 500 },
  NO_SPACE: { exit: 1, http: 507 },
  USAGE: { exit: 2, http: 400 },
  BAD_NAME: { exit: 2, http: 400 },
  BAD_FORMAT: { exit: 1, http: 422 },
  CHECKSUM: { exit: 1, http: 422 },
  LIMIT: { exit: 1, http: 413 },
  NOT_FOUND: { exit: 1, http: 404 },
  EXISTS: { exit: 1, http: 409 },
  BUSY: { exit: 1, http: 409 },
  UNSATISFIABLE: { exit: 3, http: 409 },
  CONFLICT: { exit: 3, http: 409 },
  DENIED: { exit: 3, http: 403 },
  SCRIPT_FAILED: { exit: 1, http: 500 },
  FETCH: { exit: 1, http: 502 },
  DAEMON: { exit: 1, http: 503 },
  UNSUPPORTED: { exit: 1, http: 501 },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface StrataErrorOptions {
  /** What the user can do next; one sentence without a final full stop. */
  hint?: string | undefined;
  cause?: unknown;
  /** Machine-readable extras, put beside code and message in --json. */
  data?: Record<string, unknown> | undefined;
}

/** A failure that a user can meet. Programming errors stay plain Errors. */
export class StrataError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly data: Record<string, unknown> | undefined;

  constructor(code: ErrorCode, message: string, options: StrataErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'StrataError';
    this.code = code;
    this.hint = options.hint;
    this.data = options.data;
  }

  get exitStatus(): number {
    return ERROR_CODES[this.code].exit;
  }

  get httpStatus(): number {
    return ERROR_CODES[this.code].http;
  }

  toJSON(): { code: ErrorCode; message: string; hint?: string; data?: Record<string, unknown> } {
    return {
      code: this.code,
      message: this.message,
      ...(this.hint === undefined ? {} : { hint: this.hint }),
      ...(this.data === undefined ? {} : { data: this.data }),
    };
  }
}

/** Thrown by parsers of untrusted bytes: which format, where, what. */
export class FormatError extends StrataError {
  readonly format: string;
  readonly offset: number;

  constructor(format: string, offset: number, what: string, options: StrataErrorOptions = {}) {
    super('BAD_FORMAT', `${format}: ${what} (at byte ${offset})`, options);
    this.format = format;
    this.offset = offset;
  }
}

/** Any thrown value as a StrataError; ENOSPC and EDQUOT keep their meaning. */
export function asStrataError(error: unknown): StrataError {
  if (error instanceof StrataError) return error;
  const e = error as NodeJS.ErrnoException;
  if (e?.code === 'ENOSPC' || e?.code === 'EDQUOT') {
    return new StrataError(
      'NO_SPACE',
      `no space left on the device${e.path ? ` while writing ${e.path}` : ''}`,
      {
        hint: 'free some space and repeat the command; nothing was changed',
        cause: error,
      },
    );
  }
  const message = error instanceof Error ? error.message : String(error);
  return new StrataError(typeof e?.syscall === 'string' ? 'IO' : 'INTERNAL', message, { cause: error });
}
