/**
 * Runs a container to its end with captured output, for the daemon. It keeps true: output kept in memory is bounded, the time limit
 * kills the whole container, and the bundle is gone afterwards whatever happened.
 */
import { spawn } from 'node:child_process';
import { StrataError } from '../base/index.ts';
import { prepareBundle, removeBundle } from './bundle.ts';
import { forgetContainer, killContainer } from './containers.ts';
import type { ContainerResult, ContainerSpec } from './contract.ts';
import { exitStatus, statusWithLog } from './exit-status.ts';

/** Bytes of output that a result keeps: the last ones. */
const OUTPUT_BYTES = 256 * 1024;
/** Exit status when the time limit was met, as timeout(1) gives. */
export const STATUS_TIMED_OUT = 124;

export interface RunOptions {
  /** The state root. */
  root: string;
  /** Keep stdout and stderr, in order of arrival, in the result (default true). */
  capture?: boolean;
  /** Called with every piece of output. */
  onOutput?: (bytes: Buffer) => void;
  /** Overrides spec.timeoutMs. */
  timeoutMs?: number;
  /** Standard input; default empty. */
  stdin?: string | Uint8Array;
  /** Kills the container when aborted. */
  signal?: AbortSignal;
}

/** Runs the container and waits for its end. Throws only when it could not be tried. */
export async function runContainer(spec: ContainerSpec, options: RunOptions): Promise<ContainerResult> {
  if (spec.terminal) throw new StrataError('USAGE', 'a captured container has no terminal');
  const { argv, bundleDir } = await prepareBundle(options.root, spec);
  try {
    return await runBundle(spec, argv, bundleDir, options);
  } finally {
    await forgetContainer(options.root, spec.id).catch(() => {});
    await removeBundle(options.root, spec.id);
  }
}

function runBundle(
  spec: ContainerSpec,
  argv: string[],
  bundleDir: string,
  options: RunOptions,
): Promise<ContainerResult> {
  const capture = options.capture ?? true;
  const timeoutMs = options.timeoutMs ?? spec.timeoutMs;
  return new Promise((resolve, reject) => {
    const output = new OutputTail(OUTPUT_BYTES);
    const child = spawn(argv[0]!, argv.slice(1), { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
    let timedOut = false;
    const kill = () => {
      killContainer(options.root, spec.id, 'SIGKILL')
        .catch(() => {})
        .finally(() => child.kill('SIGKILL'));
    };
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => {
            timedOut = true;
            kill();
          }, timeoutMs);
    const onAbort = () => kill();
    options.signal?.addEventListener('abort', onAbort, { once: true });
    if (options.signal?.aborted) kill();
    const onData = (bytes: Buffer) => {
      if (capture) output.add(bytes);
      options.onOutput?.(bytes);
    };
    child.stdout.on('data', onData);
    child.stderr.on('data', onData);
    child.stdin.on('error', () => {});
    child.stdin.end(options.stdin ?? '');
    const finish = () => {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', onAbort);
    };
    child.on('error', (error) => {
      finish();
      reject(error);
    });
    child.on('close', (code, signal) => {
      finish();
      const status = timedOut ? STATUS_TIMED_OUT : statusWithLog(exitStatus(code, signal), bundleDir);
      resolve({ status, output: output.text() });
    });
  });
}

/** The last bytes of a stream. */
class OutputTail {
  private pieces: Buffer[] = [];
  private size = 0;
  private readonly limit: number;

  constructor(limit: number) {
    this.limit = limit;
  }

  add(bytes: Buffer): void {
    this.pieces.push(bytes);
    this.size += bytes.length;
    while (this.size - this.pieces[0]!.length >= this.limit) this.size -= this.pieces.shift()!.length;
  }

  text(): string {
    const all = Buffer.concat(this.pieces);
    return all.subarray(Math.max(0, all.length - this.limit)).toString('utf8');
  }
}
