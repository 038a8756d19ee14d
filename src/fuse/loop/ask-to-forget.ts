/**
 * The kernel keeps names until it needs their memory, and for each of them the VLFS keeps a node. A mount that holds more than its share asks the
 * kernel to forget those that nobody uses; what it forgets comes back as FORGET. Before Linux 6.18 the kernel cannot be asked.
 */
import { pruneMessage } from '../transport/notify.ts';
import { finishIfIdle, type ServeContext, type ServedMount } from './served-mount.ts';

/** Between two looks for what could be forgotten. */
const REST_MS = 10;

export function askToForget(ctx: ServeContext, m: ServedMount): void {
  const { vlfs, server } = m;
  if (m.forgetting || m.gone || vlfs.takePrunable === undefined || server.features?.prune !== true) return;
  const now = performance.now();
  if (now < m.forgetAfter) return;
  const nodes = vlfs.takePrunable();
  if (nodes.length === 0) return;
  m.forgetting = true;
  m.underWay++;
  ctx.pool.run(m, { kind: 'notify', fuseFd: m.fd, messages: pruneMessage(nodes) }, () => {
    m.forgetting = false;
    m.forgetAfter = performance.now() + REST_MS;
    m.underWay--;
    finishIfIdle(ctx, m);
  });
}
