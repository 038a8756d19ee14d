/** The CLI's way to run a container: own standard streams, signals, terminal. Run in a child process, as the CLI is one. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { until } from '../base/until.test-support.ts';
import { prepareBundle, removeBundle } from './index.ts';
import { canRunContainers, makeTestRoot, type TestRoot } from './test-support.ts';

const skip = canRunContainers() ? false : 'needs root and busybox-static';

describe('an interactive container', { skip }, () => {
  let t: TestRoot;
  let runner: string;
  before(() => {
    t = makeTestRoot();
    runner = join(t.root, 'runner.mjs');
    const face = join(import.meta.dirname, 'exec-interactive.ts');
    writeFileSync(
      runner,
      `import { execInteractive } from ${JSON.stringify(face)};
       process.exitCode = await execInteractive(JSON.parse(process.argv[2]));`,
    );
  });
  after(() => t.remove());

  async function start(
    command: string[],
  ): Promise<{ child: ChildProcess; output: () => string; status: Promise<number> }> {
    const spec = t.spec(command);
    const { argv } = await prepareBundle(t.root, spec);
    const child = spawn(process.execPath, [runner, JSON.stringify(argv)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    let text = '';
    child.stdout!.on('data', (bytes) => {
      text += bytes;
    });
    const status = new Promise<number>((resolve) => child.on('close', (code) => resolve(code ?? -1)));
    status.then(() => removeBundle(t.root, spec.id));
    return { child, output: () => text, status };
  }

  test('passes standard streams and the exit status through', async () => {
    const { child, output, status } = await start(['sh', '-c', 'cat; exit 3']);
    child.stdin!.end('through\n');
    assert.equal(await status, 3);
    assert.equal(output(), 'through\n');
  });

  test('a signal reaches a command that handles it', async () => {
    const { child, output, status } = await start([
      'sh',
      '-c',
      'trap "echo got; exit 5" TERM; echo ready; while :; do sleep 0.05; done',
    ]);
    await untilOutput(output, 'ready');
    child.kill('SIGTERM');
    assert.equal(await status, 5);
    assert.match(output(), /got/);
  });

  for (const [signal, number] of [
    ['SIGTERM', 15],
    ['SIGINT', 2],
    ['SIGHUP', 1],
  ] as const) {
    test(`${signal} ends a command that does not handle it, as it would outside`, async () => {
      const { child, output, status } = await start(['sh', '-c', 'echo ready; exec sleep 1000']);
      await untilOutput(output, 'ready');
      await new Promise((resolve) => setTimeout(resolve, 100));
      child.kill(signal);
      assert.equal(await status, 128 + number);
    });
  }

  test('a command that is not there gives 127', async () => {
    const { status } = await start(['no-such-command']);
    assert.equal(await status, 127);
  });

  test('with a terminal the command has one, of the right size', async () => {
    const spec = t.spec(['sh', '-c', 'tty; stty size; exit 4'], { terminal: true });
    const { argv } = await prepareBundle(t.root, spec);
    const words = [process.execPath, runner, JSON.stringify(argv)].map(
      (w) => `'${w.replaceAll("'", "'\\''")}'`,
    );
    const command = `stty rows 33 cols 99; ${words.join(' ')}`;
    const out = join(t.root, 'typescript');
    let status = 0;
    try {
      execFileSync('script', ['-q', '-e', '-c', command, out], { stdio: 'ignore', timeout: 120_000 });
    } catch (error) {
      status = (error as { status: number }).status;
    }
    await removeBundle(t.root, spec.id);
    const text = execFileSync('cat', [out]).toString();
    assert.match(text, /\/dev\/pts\/0/);
    assert.match(text, /33 99/);
    assert.equal(status, 4, text);
  });

  test('without a terminal there is none', async () => {
    const { child, output, status } = await start(['sh', '-c', 'tty; test -t 0 || echo none']);
    child.stdin!.end();
    await status;
    assert.match(output(), /none/);
  });
});

async function untilOutput(output: () => string, text: string): Promise<void> {
  await until(`the command says ${text}`, () => output().includes(text));
}
