/** stratad over the fake fleet, without a data plane: run by tests as a process (`--root DIR`) or in theirs. */
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { StrataError } from '../../base/index.ts';
import type { DaemonParts } from '../daemon.ts';
import { serve } from '../serve.ts';
import { createFakeFleet, type FakeFleet } from './fake-fleet.ts';

export function fakeParts(onFleet: (fleet: FakeFleet) => void = () => {}): DaemonParts {
  return {
    openFleet: async (options) => {
      const fleet = createFakeFleet(options.root);
      onFleet(fleet);
      return fleet;
    },
    dataPlane: {
      connect: async () => null,
      start: async () => {
        throw new StrataError('UNSUPPORTED', 'the fake daemon has no data plane');
      },
      recover: async () => [],
      restart: async () => {},
      shutdown: async () => {},
    },
  };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { values } = parseArgs({ options: { root: { type: 'string' } } });
  try {
    await serve({ root: values.root!, parts: fakeParts() });
    process.exit(0);
  } catch (error) {
    process.exit(error instanceof StrataError && error.code === 'BUSY' ? 0 : 1);
  }
}
