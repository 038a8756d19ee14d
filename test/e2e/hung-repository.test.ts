/**
 * A repository whose server accepts and never answers, or sends a byte a second: the command that needs it ends with an error that says so, and meanwhile other
 * commands answer, appliances of the same template are made, and programs in mounted ones notice nothing.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { tinyArchive } from '../contract/repository/packages.ts';
import { strataRoot } from '../helpers/strata.ts';

/** As apt's configuration says: a server that sends nothing for twice as long is given up. */
const TIMEOUT_S = 5;
const ROUNDS = 10;

const s = strataRoot('hung');
const archive = tinyArchive();
const sockets = new Set<Socket>();
/** How the server sends packages. */
let manner: 'whole' | 'silent' | 'trickle' = 'whole';
/** Requests for packages that hang. */
let hanging = 0;
let server: Server;

function answer(path: string, response: ServerResponse): void {
  const file = join(archive.dir, path);
  if (!existsSync(file) || !statSync(file).isFile()) return void response.writeHead(404).end();
  if (!path.startsWith('/pool/') || manner === 'whole') {
    response.writeHead(200, { 'content-length': statSync(file).size });
    return void createReadStream(file).pipe(response);
  }
  hanging++;
  if (manner === 'silent') return;
  response.writeHead(200, { 'content-length': statSync(file).size });
  const bytes = readFileSync(file);
  let sent = 0;
  const timer = setInterval(() => response.write(bytes.subarray(sent, ++sent)), 1000);
  response.on('close', () => clearInterval(timer));
}

before(async () => {
  server = createServer((request, response) => answer(decodeURIComponent(request.url ?? '/'), response));
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const { port } = server.address() as AddressInfo;
  archive.add([
    { name: 'base', version: '1' },
    { name: 'tool-silent', version: '1' },
    { name: 'tool-trickle', version: '1' },
  ]);
  archive.publish();
  writeFileSync(join(archive.dir, 'sources.list'), `deb [trusted=yes] http://127.0.0.1:${port} tiny main\n`);
  const configuration = join(archive.dir, 'apt.conf');
  const more = `Acquire::http::Timeout "${TIMEOUT_S}";\nAcquire::http::Proxy "DIRECT";\n`;
  writeFileSync(configuration, readFileSync(configuration, 'utf8') + more);
  await promisify(execFile)('apt-get', ['update', '-q']);
  await s.json('repo', 'add', 'main', 'apt:tiny');
  await s.json('template', 'create', 'plain', 'base', '--no-configure');
  await s.json('create', 'one', '--template', 'plain');
  await s.json('mount', 'one', join(s.root, 'one'));
});

after(async () => {
  for (const socket of sockets) socket.destroy();
  server.close();
  await s.remove();
  archive.close();
});

/** One file made, looked at and removed, a hundred times: the 99th percentile in milliseconds. */
function p99(dir: string): number {
  const took: number[] = [];
  for (let i = 0; i < 100; i++) {
    const began = performance.now();
    writeFileSync(join(dir, `file-${i}`), 'text');
    statSync(join(dir, `file-${i}`));
    rmSync(join(dir, `file-${i}`));
    took.push(performance.now() - began);
  }
  return took.sort((a, b) => a - b)[Math.floor(took.length * 0.99)]!;
}

for (const how of ['silent', 'trickle'] as const) {
  test(`a ${how} server holds up only the command that needs it`, async () => {
    manner = how;
    hanging = 0;
    const began = performance.now();
    let isOver = false;
    const hung = s
      .run(['--json', 'template', 'create', `new-${how}`, `tool-${how}`, '--no-configure'])
      .finally(() => {
        isOver = true;
      });
    while (hanging === 0 && !isOver) await new Promise((resolve) => setTimeout(resolve, 20));

    // The same template, the same repository, the same daemon.
    await s.json('create', `made-${how}`, '--template', 'plain');
    assert.equal(isOver, false, 'answered while the other one waited');
    mkdirSync(join(s.root, `made-${how}`));
    await s.json('mount', `made-${how}`, join(s.root, `made-${how}`));
    assert.equal(readFileSync(join(s.root, `made-${how}/usr/share/base/version`), 'utf8'), '1\n');
    await s.json('list');
    await s.json('umount', `made-${how}`);
    // What else the machine does delays programs too, on the disk itself as well: the best of some rounds counts, and who waited for the server would wait for seconds.
    let best = { mounted: Number.POSITIVE_INFINITY, plain: 0 };
    for (let round = 0; round < ROUNDS && best.mounted >= 5; round++) {
      const now = { plain: p99(s.root), mounted: p99(join(s.root, 'one')) };
      if (now.mounted / now.plain < best.mounted / best.plain) best = now;
    }
    assert.ok(
      best.mounted < Math.max(100, best.plain * 20),
      `p99 ${best.mounted} ms, ${best.plain} ms beside`,
    );

    const outcome = await hung;
    const took = performance.now() - began;
    const { error } = JSON.parse(outcome.stdout);
    assert.equal(error.code, 'FETCH', error.message);
    assert.match(error.message, /tool-\w+ 1.*(next to nothing for \d+ s|timed out|[Tt]imeout)/);
    assert.ok(error.hint.length > 0);
    assert.ok(took < TIMEOUT_S * 40_000, `given up after ${took} ms`);

    // Nothing of it stays in the way.
    manner = 'whole';
    await s.json('template', 'create', `later-${how}`, `tool-${how}`, '--no-configure');
  });
}
