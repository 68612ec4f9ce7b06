import java.net.CookieManager;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** Visits each path with one cookie jar, and prints each answer on a line. */
class Client {
    public static void main(String[] arguments) throws Exception {
        boolean old = arguments[0].equals("HttpURLConnection");
        CookieManager jar = new CookieManager();
        if (old) CookieManager.setDefault(jar);
        HttpClient client = HttpClient.newBuilder().cookieHandler(jar).build();
        for (int at = 1; at < arguments.length; at++) {
            URI uri = URI.create(arguments[at]);
            if (old) {
                HttpURLConnection connection = (HttpURLConnection) uri.toURL().openConnection();
                System.out.println(new String(connection.getInputStream().readAllBytes()));
            } else {
                System.out.println(client.send(HttpRequest.newBuilder(uri).build(), BodyHandlers.ofString()).body());
            }
        }
    }
}
