/** The scanner that a configuration names, ready to scan. */
import type { Scanner, ScannerConfig } from '../contract.ts';
import { clamavScanner } from './clamav.ts';
import { commandScanner } from './command.ts';
import { yaraScanner } from './yara.ts';

/** Throws when the scanner is not there. */
export async function openScanner(config: ScannerConfig): Promise<Scanner> {
  switch (config.kind) {
    case 'clamav':
      return clamavScanner(config);
    case 'yara':
      return yaraScanner(config);
    case 'command':
      return commandScanner(config);
  }
}

/** Throws when the scanner is not there. */
export async function testScanner(config: ScannerConfig): Promise<void> {
  await openScanner(config);
}
