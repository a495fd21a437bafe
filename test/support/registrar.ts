import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Server, type ServerUnaryCall, type sendUnaryData, status } from "@grpc/grpc-js";
import { driverName } from "../../src/api/names.ts";
import {
  draServices,
  healthServices,
  type RegistrationStatus,
  registrationService,
} from "../../src/dra/driver/grpc.ts";
import { listenUnix } from "../../src/dra/driver/unix-server.ts";

/** A registration socket apart from the driver, which says where the driver's service is, whether or not it is there. */
export interface Registrar {
  /** Fails NotifyRegistrationStatus, or no longer does. */
  refuse(refusing: boolean): void;
  /** Answers to NotifyRegistrationStatus, as they went. */
  readonly notified: readonly ("refused" | "registered")[];
  close(): Promise<void>;
}

/** `kubeletFolder`: of a kubelet that finds no other registration there. `endpoint`: path of the driver's own service. */
export async function startRegistrar(kubeletFolder: string, endpoint: string): Promise<Registrar> {
  const notified: ("refused" | "registered")[] = [];
  let refusing = false;
  const server = new Server();
  server.addService(registrationService, {
    GetInfo: (_call: unknown, answer: sendUnaryData<object>) =>
      answer(null, {
        ...{ type: "DRAPlugin", name: driverName, endpoint },
        supported_versions: [...draServices.keys(), ...healthServices.keys()],
      }),
    NotifyRegistrationStatus(_call: ServerUnaryCall<RegistrationStatus, object>, answer: sendUnaryData<object>) {
      notified.push(refusing ? "refused" : "registered");
      if (refusing) answer({ code: status.INTERNAL, details: "the registrar cannot hear it" });
      else answer(null, {});
    },
  });
  const folder = join(kubeletFolder, "plugins_registry");
  await mkdir(folder, { recursive: true });
  const socket = await listenUnix(server, join(folder, `${driverName}-reg.sock`));
  return {
    refuse: (next) => {
      refusing = next;
    },
    notified,
    close: () => socket.close(0),
  };
}
