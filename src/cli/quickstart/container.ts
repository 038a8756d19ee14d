/**
 * Containers of the quickstart, each as its own `strata run` process: one that serves in the background, and short commands. Whatever
 * is started here is stopped by `stopAll`, also when the story fails.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { StrataError } from '../../base/index.ts';
import { quickstartDir } from './notes.ts';

const MAIN = join(import.meta.dirname, '../main.ts');
const STOP_MS = 10_000;

export interface Containers {
  /** Starts a server; its output goes to quickstart/NAME.log. */
  serve(name: string, command: string[]): Server;
  /** Runs a command to its end; its output. Throws when its status is not 0. */
  run(name: string, command: string[]): Promise<string>;
  stopAll(): Promise<void>;
}

export interface Server {
  /** Null while it runs; else how it ended, with the end of its output. */
  ended(): string | null;
  stop(): Promise<void>;
}

export function createContainers(root: string): Containers {
  const servers = new Set<Server>();
  const argvOf = (name: string, command: string[]) => [
    '--disable-warning=ExperimentalWarning',
    MAIN,
    '--root',
    root,
    'run',
    name,
    '--',
    ...command,
  ];
  return {
    serve: (name, command) => {
      const log = join(quickstartDir(root), `${name}.log`);
      const fd = openSync(log, 'w', 0o600);
      const child = spawn(process.execPath, argvOf(name, command), { stdio: ['ignore', fd, fd] });
      closeSync(fd);
      const server: Server = {
        ended: () =>
          child.exitCode === null && child.signalCode === null
            ? null
            : `it ended with ${child.signalCode ?? `status ${child.exitCode}`}: ${lastLines(log)}`,
        stop: async () => {
          await endProcess(child);
          servers.delete(server);
        },
      };
      servers.add(server);
      return server;
    },
    run: (name, command) => output(name, argvOf(name, command)),
    stopAll: async () => {
      await Promise.all([...servers].map((server) => server.stop()));
    },
  };
}

function output(name: string, argv: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    let errors = '';
    child.stdout.on('data', (chunk) => {
      text += chunk;
    });
    child.stderr.on('data', (chunk) => {
      errors += chunk;
    });
    child.once('error', reject);
    child.once('close', (status) => {
      if (status === 0) resolve(text);
      else
        reject(new StrataError('IO', `a command in ${name} ended with status ${status}: ${errors.trim()}`));
    });
  });
}

async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  child.kill('SIGTERM');
  const killed = new AbortController();
  await Promise.race([
    closed,
    sleep(STOP_MS, undefined, { signal: killed.signal }).then(
      () => child.kill('SIGKILL'),
      () => {},
    ),
  ]);
  await closed;
  killed.abort();
}

function lastLines(file: string): string {
  return readFileSync(file, 'utf8').trim().split('\n').slice(-3).join(' | ') || '(no output)';
}

/** GET http://127.0.0.1:PORT/PATH as text; null while nobody listens. Throws on another status than 200. */
export async function fetchPage(port: number, path: string): Promise<string | null> {
  const { get } = process.getBuiltinModule('node:http');
  return await new Promise((resolve, reject) => {
    const request = get({ host: '127.0.0.1', port, path, agent: false, timeout: 5_000 });
    request.once('timeout', () => request.destroy(new Error(`no answer from port ${port}`)));
    request.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'ECONNREFUSED' ? resolve(null) : reject(error),
    );
    request.once('response', async (response) => {
      try {
        let text = '';
        for await (const chunk of response.setEncoding('utf8')) text += chunk;
        if (response.statusCode === 200) resolve(text);
        else reject(new StrataError('IO', `GET ${path} answered ${response.statusCode}`));
      } catch (error) {
        reject(error);
      }
    });
  });
}
