/**
 * GET /events: the start, progress and end of every job as server-sent events, for dashboards and tails. A watcher
 * that does not read loses events instead of costing memory; their number is bounded.
 */
import type { FastifyInstance } from 'fastify';
import { StrataError } from '../base/index.ts';
import type { Jobs } from './jobs.ts';

const MAX_WATCHERS = 64;
const KEEP_ALIVE_MS = 15_000;

export function registerEvents(app: FastifyInstance, jobs: Jobs): void {
  const open = new Set<() => void>();
  app.addHook('preClose', async () => {
    for (const end of open) end();
  });
  app.get('/events', { schema: { hide: true } }, async (_request, reply) => {
    if (open.size >= MAX_WATCHERS) {
      throw new StrataError('LIMIT', `there are already ${MAX_WATCHERS} watchers of events`);
    }
    reply.hijack();
    const response = reply.raw;
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    response.write(': strata job events\n\n');
    const unwatch = jobs.watch((event) => {
      if (!response.writableNeedDrain)
        response.write(`event: ${event.event}\ndata: ${JSON.stringify(event)}\n\n`);
    });
    const alive = setInterval(() => response.write(': alive\n\n'), KEEP_ALIVE_MS);
    const end = () => response.end();
    open.add(end);
    response.on('error', () => {});
    response.on('close', () => {
      clearInterval(alive);
      unwatch();
      open.delete(end);
    });
    return reply;
  });
}
