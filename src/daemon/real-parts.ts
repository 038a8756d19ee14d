/** The parts stratad is made of in production: the fleet, and strata-fs as the data plane. */
import { openFleet } from '../fleet/index.ts';
import { connectDataPlane, recoverMounts, restartDataPlane, startDataPlane } from '../fuse/index.ts';
import type { DaemonParts } from './daemon.ts';

export const REAL_PARTS: DaemonParts = {
  openFleet,
  dataPlane: {
    connect: connectDataPlane,
    start: startDataPlane,
    recover: recoverMounts,
    restart: restartDataPlane,
    shutdown: async (root, options) => {
      const plane = await connectDataPlane(root);
      await plane?.shutdown(options);
      plane?.close();
    },
  },
};
