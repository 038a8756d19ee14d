/** A web server over a directory of pages, and a load on it: nginx and wrk, as Debian has them. */
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const PAGES = 1000;

/** Pages of 1 to 32 KiB in 20 directories. */
export function makePages(dir: string): void {
  const content = Buffer.alloc(32 * 1024, 'strata ');
  for (let i = 0; i < PAGES; i++) {
    const below = join(dir, `d${i % 20}`);
    mkdirSync(below, { recursive: true });
    writeFileSync(join(below, `page-${i}.html`), content.subarray(0, 1024 * (1 + (i % 32))));
  }
}

/** 'kept open': with open_file_cache, as servers under load are set up; 'opened': nginx's default, each request opens its file. */
export type Serving = 'kept open' | 'opened';

export interface WebLoad {
  root: string;
  /** For configuration, logs and the pid file; outside of the mount. */
  work: string;
  files: Serving;
  seconds: number;
  port: number;
}

const START_MS = 5000;

/** Requests a second of wrk with 16 connections over all pages, after a second of warming up. */
export function serveAndLoad({ root, work, files, seconds, port }: WebLoad): number {
  const config = join(work, 'nginx.conf');
  const script = join(work, 'pages.lua');
  writeFileSync(
    config,
    `user root; worker_processes 1; pid ${work}/nginx.pid; error_log ${work}/nginx.log; daemon off;
events { worker_connections 256; }
http {
  access_log off; sendfile on; keepalive_requests 1000000;
  client_body_temp_path ${work}/nginx-body; proxy_temp_path ${work}/nginx-proxy; fastcgi_temp_path ${work}/nginx-fastcgi;
  uwsgi_temp_path ${work}/nginx-uwsgi; scgi_temp_path ${work}/nginx-scgi;
  ${files === 'kept open' ? `open_file_cache max=${2 * PAGES} inactive=60s; open_file_cache_valid 60s;` : ''}
  server { listen 127.0.0.1:${port}; root ${root}; }
}
`,
  );
  writeFileSync(
    script,
    `local i = 0
request = function()
  i = (i + 7) % ${PAGES}
  return wrk.format("GET", "/d" .. (i % 20) .. "/page-" .. i .. ".html")
end
`,
  );
  const server = spawn('nginx', ['-c', config, '-e', `${work}/nginx.log`], { stdio: 'ignore' });
  try {
    waitForServer(port);
    const load = (duration: number): string =>
      execFileSync('wrk', ['-t1', '-c16', `-d${duration}s`, '-s', script, `http://127.0.0.1:${port}/`], {
        encoding: 'utf8',
      });
    load(1);
    const said = load(seconds);
    if (said.includes('Non-2xx')) throw new Error(`nginx did not serve all pages: ${said}`);
    return Number(/Requests\/sec:\s+([\d.]+)/.exec(said)![1]);
  } finally {
    server.kill('SIGTERM');
    waitForEnd(server.pid!);
  }
}

function sleep(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function waitForServer(port: number): void {
  const until = Date.now() + START_MS;
  for (;;) {
    try {
      execFileSync('wrk', ['-t1', '-c1', '-d1s', `http://127.0.0.1:${port}/d0/page-0.html`], {
        stdio: 'ignore',
      });
      return;
    } catch {
      if (Date.now() > until) throw new Error('nginx does not start');
      sleep(50);
    }
  }
}

/** Its files must be closed before the mount goes. A child that has ended is a zombie here until Node hears of it. */
function waitForEnd(pid: number): void {
  const until = Date.now() + START_MS;
  while (Date.now() < until) {
    const state = execFileSync('sh', ['-c', `ps -o stat= -p ${pid} || true`], { encoding: 'utf8' }).trim();
    if (state === '' || state.startsWith('Z')) return;
    sleep(20);
  }
}
