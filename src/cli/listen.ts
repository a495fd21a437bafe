import { UsageError } from "./command.ts";

/** Value of a flag that takes an address, `HOST:PORT` or `[::1]:8443`; throws UsageError. */
export function parseListen(flag: string, text: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined || port > 65_535) {
    throw new UsageError(`--${flag} ${text} is not HOST:PORT; write for example 127.0.0.1:8443 or [::1]:8443`);
  }
  return { host, port };
}
