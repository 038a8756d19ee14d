/** What the quickstart puts into its appliances: the configuration of nginx, its page, and the layer with the greeting. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

export const PAGE = '/var/www/html/index.html';
export const GREETING = '/usr/share/hello/index.html';
export const SITE = '/etc/nginx/sites-available/default';
/** A file of the package nginx-common that the story changes. */
export const MIME_TYPES = '/etc/nginx/mime.types';
/** A file of the package nginx-common that the story deletes. */
export const DELETED = '/usr/share/nginx/html/index.html';
export const INTRUDER = '/root/intruder.sh';

export const PAGE_TEXT = '<h1>Served by an appliance of the template web</h1>\n';

export function siteText(port: number): string {
  return `# Written by the quickstart of Strata.
server {
    listen 127.0.0.1:${port};
    root /var/www/html;
    location /hello {
        alias /usr/share/hello/;
        index index.html;
    }
}
`;
}

export function greetingText(version: number): string {
  return `Hello from layer hello-page, version ${version}\n`;
}

/** Writes files below a directory, making their directories. */
export function writeTree(dir: string, files: Record<string, string>): void {
  for (const [path, content] of Object.entries(files)) {
    const file = join(dir, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
  }
}
