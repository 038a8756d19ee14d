/**
 * What a command has at hand: the state root, whether JSON is wanted, and calls of the API with their progress shown.
 * The daemon starts by itself at the first call.
 */
import { resolve } from 'node:path';
import { StrataError } from '../base/index.ts';
import { type Client, createClient } from '../client/index.ts';
import { DEFAULT_ROOT, type Method, type Request, type Result, ROUTES } from '../daemon/contract.ts';
import { createReporter } from './progress.ts';

export interface Context {
  readonly root: string;
  readonly json: boolean;
  readonly client: Client;
  /** Calls the API and shows its progress. */
  call<M extends Method>(method: M, request: Request<M>): Promise<Result<M>>;
  /** A line on stderr, for what must be known but is not a result. */
  note(text: string): void;
}

/** sun_path of unix(7) has 108 bytes with its NUL; `/run/strata-fs.sock` takes 19. */
const ROOT_BYTES = 88;

/** The state root: the option, else $STRATA_ROOT, else /var/lib/strata; absolute. */
export function chooseRoot(option: string | undefined): string {
  const root = option ?? (process.env['STRATA_ROOT'] || DEFAULT_ROOT);
  if (root === '' || root.includes('\0'))
    throw new StrataError('USAGE', 'the state root must be a directory');
  const absolute = resolve(root);
  const bytes = Buffer.byteLength(absolute);
  if (bytes > ROOT_BYTES) {
    throw new StrataError(
      'USAGE',
      `the path of the state root has ${bytes} bytes, its sockets allow ${ROOT_BYTES}`,
      {
        hint: 'choose a shorter --root; a symbolic link will do',
      },
    );
  }
  return absolute;
}

export function createContext(options: { root: string | undefined; json: boolean }): Context {
  const root = chooseRoot(options.root);
  const { json } = options;
  const note = (text: string) => {
    if (!json) process.stderr.write(`strata: ${text}\n`);
  };
  const client = createClient({ root, onMismatch: (message) => note(`note: ${message}`) });
  return {
    root,
    json,
    client,
    note,
    call: async (method, request) => {
      const reporter = createReporter({ json, stream: process.stderr });
      const interrupted = () => {
        reporter.done();
        note(`${method} goes on in stratad; \`strata status\` shows it`);
        process.exit(130);
      };
      // Who handles interrupts already (the quickstart, a container) goes on doing so.
      const tells = ROUTES[method].stream === true && process.listenerCount('SIGINT') === 0;
      if (tells) process.once('SIGINT', interrupted);
      try {
        return await client.call(method, request, { onProgress: reporter.progress });
      } finally {
        process.off('SIGINT', interrupted);
        reporter.done();
      }
    },
  };
}
