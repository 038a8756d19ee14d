/** `strata status`: what runs on this host. */
import type { CommandSpec } from '../command.ts';
import { countOf, formatBytes, formatDuration } from '../format.ts';

export const STATUS_COMMAND: CommandSpec = {
  path: 'status',
  summary: 'Show what runs: daemon, data plane, counts, notes',
  examples: [
    ['strata status', 'for people'],
    ['strata status --json | jq .data_plane.pid', 'for programs'],
  ],
  run: async ({ context }) => {
    const [status, { jobs }] = await Promise.all([context.call('status', {}), context.call('jobs', {})]);
    const running = jobs.filter((job) => job.state === 'running');
    return {
      json: { ...status, jobs: running },
      human: (print) => {
        const { daemon, data_plane: plane } = status;
        print.line(`root        ${status.root}`);
        print.line(`stratad     pid ${daemon.pid}, ${daemon.build}, up ${formatDuration(daemon.uptime_ms)}`);
        print.line(
          plane.pid === null
            ? 'strata-fs   not running (nothing is mounted)'
            : `strata-fs   pid ${plane.pid}, ${formatBytes(plane.memory_bytes)}`,
        );
        print.line(`templates   ${status.templates}`);
        print.line(`appliances  ${status.appliances}`);
        print.line(`mounts      ${status.mounts}`);
        for (const note of status.notes) print.line(`note        ${note}`);
        for (const job of running) {
          print.line(`job ${job.id}       ${job.method} ${job.target}, ${formatDuration(job.elapsed_ms)}`);
        }
        if (running.length > 0) print.line(countOf(running.length, 'job runs', 'jobs run'));
      },
    };
  },
};
