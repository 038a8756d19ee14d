/**
 * A scanner that is a program: started once for each content, with the content as its standard input and as descriptor 3 (the same open file,
 * read-only), at the priority of the scan. It gets a time, its output a size; its whole process group ends with it.
 */
import { spawn } from 'node:child_process';

const MAX_OUTPUT_BYTES = 64 * 1024;

export interface ProgramEnd {
  /** Exit status; null: it was ended by a signal, did not start, or took too long. */
  status: number | null;
  /** Why there is no status. */
  failure: string;
  stdout: string;
  stderr: string;
}

/** Where a program finds the content as a file. */
export const CONTENT_PATH = '/proc/self/fd/3';

export function runProgram(argv: readonly string[], fd: number, timeoutMs: number): Promise<ProgramEnd> {
  const [file, ...args] = argv;
  return new Promise((resolve) => {
    const child = spawn(file!, args, {
      stdio: [fd < 0 ? 'ignore' : fd, 'pipe', 'pipe', fd < 0 ? 'ignore' : fd],
      detached: true,
      env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
      cwd: '/',
    });
    let failure = '';
    const output = { stdout: '', stderr: '' };
    const stop = (why: string): void => {
      failure ||= why;
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
      } catch {
        // It has ended already.
      }
    };
    const timer = setTimeout(() => stop(`no end after ${timeoutMs / 1000} s`), timeoutMs);
    for (const name of ['stdout', 'stderr'] as const) {
      child[name]!.on('data', (bytes: Buffer) => {
        output[name] += bytes.toString('latin1');
        if (output[name].length > MAX_OUTPUT_BYTES) stop('it says too much');
      });
    }
    let ended = false;
    const end = (status: number | null): void => {
      if (ended) return;
      ended = true;
      clearTimeout(timer);
      resolve({ status: failure === '' ? status : null, failure, ...output });
    };
    child.on('error', (error) => {
      failure ||= error.message;
      end(null);
    });
    child.on('close', (code, signal) => {
      if (code === null) failure ||= `ended by ${signal}`;
      end(code);
    });
  });
}
