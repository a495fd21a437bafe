import { Server, type ServerUnaryCall, type sendUnaryData } from "@grpc/grpc-js";
import { driverName } from "../../api/names.ts";
import {
  draServices,
  healthServices,
  type PluginInfo,
  type RegistrationStatus,
  registrationService,
  serverOptions,
} from "./grpc.ts";

/**
 * Answers the kubelet's plugin watcher. Everything comes from memory: an answer that takes longer than a second is no
 * answer, and the kubelet then backs off further each time.
 *
 * @param endpoint absolute path of the DRA socket, which must be open already.
 */
export function registrationServer(endpoint: string, onStatus: (status: RegistrationStatus) => void): Server {
  const info: PluginInfo = {
    type: "DRAPlugin",
    name: driverName,
    endpoint,
    supported_versions: [...draServices.keys(), ...healthServices.keys()],
  };
  const server = new Server(serverOptions);
  server.addService(registrationService, {
    GetInfo: (_call: unknown, answer: sendUnaryData<PluginInfo>) => answer(null, info),
    NotifyRegistrationStatus(call: ServerUnaryCall<RegistrationStatus, object>, answer: sendUnaryData<object>) {
      onStatus(call.request);
      answer(null, {});
    },
  });
  return server;
}
