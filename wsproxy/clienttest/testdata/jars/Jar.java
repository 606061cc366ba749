import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.CookieHandler;
import java.net.CookieManager;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.HashMap;
import java.util.Map;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * The clients of the JDK, each jar with a CookieManager of its own.
 *
 *     java Jar HttpClient|HttpURLConnection PROXYPORT ROOTS
 *
 * Each line of the input is the name of a jar and URLs to get in turn. The answer is a line with the bodies.
 */
public class Jar {
    private final InetSocketAddress proxy;
    private final SSLContext tls;
    private final Map<String, CookieManager> jars = new HashMap<>();
    private final Map<String, HttpClient> clients = new HashMap<>();

    Jar(int port, String roots) throws Exception {
        proxy = new InetSocketAddress("127.0.0.1", port);
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream in = new FileInputStream(roots)) {
            store.setCertificateEntry("root", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        tls = SSLContext.getInstance("TLS");
        tls.init(null, trust.getTrustManagers(), null);
        HttpsURLConnection.setDefaultSSLSocketFactory(tls.getSocketFactory());
    }

    String withClient(String jar, URI uri) throws Exception {
        HttpClient client = clients.computeIfAbsent(jar, name -> HttpClient.newBuilder()
            .cookieHandler(new CookieManager()).proxy(ProxySelector.of(proxy)).sslContext(tls).build());
        return client.send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString()).body();
    }

    String withConnection(String jar, URI uri) throws Exception {
        CookieHandler.setDefault(jars.computeIfAbsent(jar, name -> new CookieManager()));
        HttpURLConnection c = (HttpURLConnection) uri.toURL().openConnection(new Proxy(Proxy.Type.HTTP, proxy));
        try (InputStream in = c.getInputStream()) {
            return new String(in.readAllBytes(), StandardCharsets.UTF_8);
        }
    }

    public static void main(String[] args) throws Exception {
        Jar all = new Jar(Integer.parseInt(args[1]), args[2]);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            StringBuilder answers = new StringBuilder();
            for (int i = 1; i < words.length; i++) {
                URI uri = URI.create(words[i]);
                String body = args[0].equals("HttpClient") ? all.withClient(words[0], uri) : all.withConnection(words[0], uri);
                answers.append(body.trim()).append(' ');
            }
            System.out.println(answers.toString().trim());
        }
        System.exit(0); // the clients' threads would keep it
    }
}
